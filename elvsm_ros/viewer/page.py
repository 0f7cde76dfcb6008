"""One browser: its controls, the pictures it asks for as its camera moves, and what it is told."""

from __future__ import annotations

import collections
import dataclasses
import math
import textwrap
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import viser

from elvsm_ros import RenderedViews, SceneClient, SceneClientError
from elvsm_ros.conversions import RGB, ConversionError, Intrinsics
from elvsm_ros.viewer import geometry, layers, status_text
from elvsm_ros.viewer.film import Film, Take
from elvsm_ros.viewer.node_panel import NodePanel
from elvsm_ros.viewer.pacer import Pacer

RATE_WINDOW = 2.0
"""Seconds over which pictures per second are counted."""
NEAR = 0.2
"""Metres within which nothing is drawn: where a keyframe stands, its own picture would hide the render."""
NEWS = 30.0
"""Seconds for which a page shows what the node complained of last."""
PATIENCE = 20.0
"""Seconds after which a picture is not waited for any more."""
FILM_RATE = 15.0
"""Pictures per second of a video."""


@dataclasses.dataclass(frozen=True, eq=False)
class PageRequest:
    """What a page wants to see: T_world_cam [4, 4], the camera, keyframes to use at most (0: the node's own), and which
    of `layers.LAYERS`."""

    T_world_cam: np.ndarray
    camera: Intrinsics
    max_views: int
    layer: str


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """What was asked for, and the answer whose picture is on the page."""

    view: PageRequest
    answer: RenderedViews

    @property
    def image(self) -> RGB:
        """What is on the page, uint8 RGB [H, W, 3]."""
        return layers.picture(self.view.layer, self.answer)


class Page:
    """The controls and the picture of one client, from its connection to its end.

    pool: threads that wait for pictures. newest: returns T_world_cam of the newest keyframe, or None, and the direction
    that is up. memory: returns what /diagnostics says of memory, names and amounts. out: folder for videos.
    """

    def __init__(
        self,
        client: viser.ClientHandle,
        scene: SceneClient,
        pool: Executor,
        newest: Callable[[], tuple[np.ndarray | None, tuple[float, ...]]],
        memory: Callable[[], Sequence[tuple[str, str]]],
        out: Path,
    ):
        self._client, self._scene, self._newest, self._memory, self._out = client, scene, newest, memory, out
        self._pacer: Pacer[PageRequest] = Pacer(lambda view: pool.submit(self._request, view))
        self._times: collections.deque[float] = collections.deque()
        self._take: Take | None = None
        self._film: Film | None = None
        self._complaint = ""
        self._said: str | None = None
        self._said_at = -math.inf
        self.closed = False
        self.placed = False
        """Whether the camera has been put where there is something to see."""
        self.shown: Shown | None = None
        self.count = 0
        self._build()
        client.camera.fov = math.radians(self._fov.value)
        client.camera.near = NEAR

        async def moved(_: viser.CameraHandle) -> None:  # async: in the order of the browser's messages
            self.refresh(moved=True)

        client.camera.on_update(moved)

    @property
    def busy(self) -> bool:
        """Whether a picture is under way."""
        return self._pacer.busy

    @property
    def overtaken(self) -> int:
        """Views that were never asked for because newer ones took their place."""
        return self._pacer.overtaken

    def place(self) -> bool:
        """Put the page's camera where the newest keyframe is, and tell whether there is one."""
        T_world_cam, up = self._newest()
        if T_world_cam is None:
            return False
        self.placed = True
        camera = self._client.camera
        with self._client.atomic():
            camera.up_direction = np.array(up)
            camera.position = T_world_cam[:3, 3]
            camera.look_at = T_world_cam[:3, 3] + T_world_cam[:3, 2]
            camera.wxyz = np.array(geometry.wxyz_of(T_world_cam))
        return True

    def refresh(self, moved: bool = False) -> None:
        """Ask for what the camera sees now, unless the page does not want pictures. moved: by its user."""
        view = self.view()
        if self.closed or view is None:
            return
        if moved and self._take is not None:
            self._take.add(view.T_world_cam)
        if self._show.value and self._scene.connected and len(self._scene.last_keyframes):
            self._pacer.offer(view)

    def view(self) -> PageRequest | None:
        """Return what the page's camera sees; None before its first message."""
        camera = self._client.camera
        try:
            T = geometry.matrix_of(camera.wxyz, camera.position)
            made = geometry.camera_of(camera.fov, camera.aspect, self._height.value)
        except (AssertionError, ConversionError, ZeroDivisionError):
            return None
        return PageRequest(T, made, self._max_views.value, self._layer.value)

    def tick(self) -> None:
        """Bring what the page says of the node up to date."""
        now = time.monotonic()
        # A message of the browser's that crossed the slider's may have set the old one again.
        self._client.camera.fov = math.radians(self._fov.value)
        while self._times and now - self._times[0] > RATE_WINDOW:
            self._times.popleft()
        self._set(
            self._state, status_text.state(self._scene.name, self._scene.connected, self._scene.last_status)
        )
        rate = len(self._times) / RATE_WINDOW
        status = self._scene.last_status
        if status is not None and status.last_error != self._said:
            # Not what had been said before this page was opened.
            self._said_at = now if self._said is not None else -math.inf
            self._said = status.last_error
        news = self._said or "" if now - self._said_at < NEWS else ""
        self._set(
            self._numbers,
            status_text.numbers(self._shown_row(), rate, self._complaint, status, news, self._memory()),
        )
        self._node.tick()

    def close(self) -> None:
        """Note that the browser has gone."""
        self.closed = True
        if self._film is not None:
            self._film.cancel()

    def tell(self, title: str, body: str, good: bool = True) -> None:
        """Show a message on the page, for some seconds."""
        if not self.closed:
            # viser shows notifications as plain text.
            short = textwrap.shorten(body, status_text.LONGEST, placeholder=" …")
            self._client.add_notification(
                title, short, auto_close_seconds=8.0, color="green" if good else "red"
            )

    # Pictures

    def _request(self, view: PageRequest) -> None:
        try:
            answer = self._scene.render_views(
                [view.T_world_cam], view.camera, max_views=view.max_views, encoding="jpeg", timeout=PATIENCE,
                **layers.options(view.layer),
            )  # fmt: skip
        except (SceneClientError, ConversionError) as error:
            self._complaint = str(error)
        else:
            self._show_answer(view, answer)
        finally:
            self._pacer.done()

    def _show_answer(self, view: PageRequest, answer: RenderedViews) -> None:
        if self.closed:
            return
        self._complaint = ""
        shown = Shown(view, answer)
        if self._show.value:
            self._client.scene.set_background_image(shown.image, format="jpeg", jpeg_quality=90)
            # Now, not with the next batch: the picture should follow the hand.
            self._client.flush()
        self._times.append(time.monotonic())
        self.count += 1
        self.shown = shown

    def _shown_row(self) -> tuple[float, float, float, int] | None:
        if self.shown is None:
            return None
        answer = self.shown.answer
        return answer.round_trip_ms, answer.latency_ms, answer.support[0], answer.views_used

    # Controls

    def _build(self) -> None:
        gui = self._client.gui
        self._state = gui.add_html(
            status_text.state(self._scene.name, self._scene.connected, self._scene.last_status)
        )
        self._numbers = gui.add_html("")
        with gui.add_folder("View"):
            self._show = gui.add_checkbox("Rendered picture", True)
            self._layer = gui.add_dropdown(
                "Picture",
                layers.LAYERS,
                initial_value=layers.NODE,
                hint="Detail: the keyframes' own pixels, where they agree",
            )
            self._max_views = gui.add_slider(
                "max_views",
                0,
                32,
                1,
                0,
                hint="Keyframes that a picture uses at most; 0: the node's own limit",
            )
            self._fov = gui.add_slider("Field of view", 20, 120, 1, 60, hint="Vertical, degrees")
            self._height = gui.add_slider(
                "Resolution",
                64,
                1024,
                32,
                256,
                hint="Height of the picture, pixels; its width follows the page",
            )
            go = gui.add_button("Go to the newest camera")
        self._node = NodePanel(self._client, self._scene, self.tell)
        with gui.add_folder("Trajectory"):
            self._record = gui.add_button("Record", hint="Note how you move the camera from now on")
            self._render = gui.add_button("Render to a video", disabled=True)
            self._progress = gui.add_progress_bar(0.0, visible=False)
        self._show.on_update(lambda _: self._on_show())
        for choice in (self._layer, self._max_views):
            choice.on_update(lambda _: self.refresh())
        self._height.on_update(lambda _: self.refresh())
        self._fov.on_update(lambda _: self._on_fov())
        go.on_click(lambda _: self._on_go())
        self._record.on_click(lambda _: self._on_record())
        self._render.on_click(lambda _: self._on_render())

    def _on_show(self) -> None:
        if self._show.value:
            self.refresh()
        else:
            self._client.scene.set_background_image(None)

    def _on_fov(self) -> None:
        self._client.camera.fov = math.radians(self._fov.value)  # the browser answers with a new camera
        self.refresh()

    def _on_go(self) -> None:
        if not self.place():
            self.tell("There is no keyframe yet", "Wait until images with poses have arrived.", good=False)

    def _on_record(self) -> None:
        if self._take is None:
            self._take = Take()
            view = self.view()
            if view is not None:
                self._take.add(view.T_world_cam)
            self._record.label, self._render.disabled = "Stop recording", True
            return
        self._takes, self._take = self._take, None
        frames = len(self._takes.poses(FILM_RATE))
        self._record.label = "Record again"
        self._render.label = f"Render {frames} pictures to a video"
        self._render.disabled = frames < 2
        if frames < 2:
            self.tell("Nothing was recorded", "Move the camera while recording.", good=False)

    def _on_render(self) -> None:
        if self._film is not None:
            self._film.cancel()
            return
        view = self.view()
        if view is None:
            return
        name = time.strftime("trajectory_%Y%m%d_%H%M%S.mp4")
        self._progress.visible, self._progress.value = True, 0.0
        self._render.label, self._record.disabled = "Cancel", True
        self._film = Film(
            self._scene, self._takes.poses(FILM_RATE), view.camera, view.max_views, FILM_RATE, self._out / name,
            self._on_progress, self._on_film, layers.options(view.layer).get("detail"),
        )  # fmt: skip

    def _on_progress(self, done: int, total: int) -> None:
        self._progress.value = 100.0 * done / total

    def _on_film(self, path: Path | None, error: str) -> None:
        self._film = None
        self._progress.visible = False
        self._render.label, self._record.disabled = "Render to a video", False
        if path is None:
            self.tell("There is no video", error, good=False)
            return
        self.tell("The video is ready", f"On the viewer's machine: {path}")
        if not self.closed:
            self._client.send_file_download(path.name, path.read_bytes())

    @staticmethod
    def _set(handle: Any, text: str) -> None:
        if handle.content != text:
            handle.content = text
