"""The viewer as a program: the page's server, the link to the node, and what passes between them."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from std_msgs.msg import Header

from elvsm.srv import RenderViews
from elvsm_ros import conversions
from elvsm_ros.viewer.link import Link
from elvsm_ros.viewer.options import UP, Options

THUMBNAIL = 96
"""Height of a keyframe's small picture, pixels."""
RETRY = 2.0
"""Seconds until a small picture that could not be had is asked for again."""
LOCAL = ("127.0.0.1", "localhost", "::1")


class Viewer:
    """Serve pages for a node; a context manager. `url` is where."""

    def __init__(self, options: Options):
        import viser

        from elvsm_ros.viewer import guard
        from elvsm_ros.viewer.scenery import Scenery

        self._options = options
        self._lock = threading.Lock()
        self._pages: dict[int, Any] = {}
        self._thumbnail_at = 0.0  # when the next one may be asked for; infinite while one is under way
        self._connected = False
        self._held: Any = None
        self.link = Link(options.node, self._tick, options.ros)
        self._server: Any = None
        page = Path(viser.__file__).parent / "client" / "build" / "index.html"
        with guard.guarding(guard.Policy(options.host, options.allow_origin), self._control, page):
            self._server = viser.ViserServer(
                host=options.host, port=options.port, label="elvsm", verbose=False
            )
        guard.forbid_sharing(self._server)
        # The share button would open a tunnel through somebody else's server.
        self._server.gui.configure_theme(show_logo=False, show_share_button=False, dark_mode=True)
        self.scenery = Scenery(self._server, options.up, options.max_frusta)
        with self._server.gui.add_folder("Keyframes", order=1e9):
            self._visible = self._server.gui.add_checkbox("Show keyframes and path", True)
            self._size = self._server.gui.add_slider("Size", 0.02, 1.0, 0.02, 0.08, hint="Metres")
        self._server.on_client_connect(self._on_connect)
        self._server.on_client_disconnect(self._on_disconnect)

    @property
    def url(self) -> str:
        """Where the page is."""
        host = self._options.host
        shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._server.get_port()}"

    @property
    def pages(self) -> list[Any]:
        """The pages that are open."""
        with self._lock:
            return list(self._pages.values())

    def __enter__(self) -> Viewer:
        self.link.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for page in self.pages:
            page.close()
        self.link.__exit__()
        self._server.stop()

    def _control(self, uuid: str) -> Any:
        """Return the control with an id, of all pages or of one; None where there is none."""
        if self._server is None:
            return None
        for gui in (self._server.gui, *(client.gui for client in self._server.get_clients().values())):
            if (found := gui._gui_input_handle_from_uuid.get(uuid)) is not None:
                return found
        return None

    def _on_connect(self, client: Any) -> None:
        from elvsm_ros.viewer.page import Page

        page = Page(client, self.link, self._newest, self._options.out)
        with self._lock:
            self._pages[client.client_id] = page
        page.refresh()

    def _on_disconnect(self, client: Any) -> None:
        with self._lock:
            page = self._pages.pop(client.client_id, None)
        if page is not None:
            page.close()

    def _newest(self) -> tuple[np.ndarray | None, tuple[float, ...]]:
        poses = self.link.held.poses
        return poses[-1] if len(poses) else None, self.scenery.up or UP["+z"]

    def _tick(self) -> None:
        """Bring pages and drawings up to date. Runs on the link's thread."""
        held, came_back = self.link.held, self.link.connected and not self._connected
        self._connected = self.link.connected
        self.scenery.show(held, self.link.camera, self._size.value, self._visible.value)
        changed, self._held = held is not self._held, held
        for page in self.pages:
            placed = not page.placed and page.place()
            if not placed and (changed or came_back):
                page.refresh()
            page.tick()
        self._next_thumbnail()

    def _next_thumbnail(self) -> None:
        """Ask for the picture of one keyframe, when nobody waits for anything else.

        The node publishes no keyframe images; rendered at its own pose from itself alone, a keyframe gives its
        picture as the model has it, also after a scene was loaded from a file.
        """
        if time.monotonic() < self._thumbnail_at or not self.link.connected:
            return
        if any(page.busy for page in self.pages):
            return
        wanted = self.scenery.wants_picture() if self.pages else None
        if wanted is None:
            return
        key, T = wanted
        camera = self.scenery.camera
        width = max(2, round(THUMBNAIL * camera.width / camera.height))
        request = RenderViews.Request(
            poses=[conversions.matrix_to_pose(T)],
            camera_info=conversions.camera_info(camera.stretched(width, THUMBNAIL), Header()),
            max_views=1, encoding="jpeg",
        )  # fmt: skip

        def done(answer: RenderViews.Response | None, error: str) -> None:
            picture = None
            if answer is not None and answer.success:
                with contextlib.suppress(conversions.ConversionError):
                    picture = conversions.image_to_rgb(answer.compressed_images[0])
            self.scenery.set_picture(key, picture)
            # What failed is asked for again, but the node shall not be kept busy with it.
            self._thumbnail_at = 0.0 if picture is not None else time.monotonic() + RETRY

        self._thumbnail_at = math.inf
        self.link.call("render_views", request, done)


def run(options: Options) -> int:
    """Serve until SIGINT or SIGTERM, and return the exit status."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        import viser  # noqa: F401
    except ImportError:
        print("elvsm_viewer: needs viser: pip install 'elvsm[viewer]', or pip install viser", file=sys.stderr)
        return 2
    try:
        viewer = Viewer(options)
    except OSError as error:
        print(f"elvsm_viewer: cannot serve on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 2
    with viewer:
        print(f"elvsm_viewer: {viewer.url} shows {options.node}", flush=True)
        if options.host not in LOCAL:
            print(
                "elvsm_viewer: everybody who reaches this address can look on, and pause, reset and overwrite scenes",
                flush=True,
            )
        while not stop.wait(0.2):
            pass
    return 0
