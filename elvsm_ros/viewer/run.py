"""The viewer as a program: the page's server, the node's client, and what passes between them."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CameraInfo

from elvsm_ros import SceneClient, SceneClientError, conversions
from elvsm_ros.conversions import ConversionError, Intrinsics
from elvsm_ros.qos import SENSOR_QOS
from elvsm_ros.rclpy_support import LEAVE, leaving
from elvsm_ros.viewer.options import UP, ViewerOptions

TICK = 0.1
"""Seconds between updates of the pages at least; they come sooner when something has changed."""
DEVICE_STATUS = "elvsm: device"
"""Name of the node's status on /diagnostics that is about memory."""

THUMBNAIL = 96
"""Height of a keyframe's small picture, pixels."""
RETRY = 2.0
"""Seconds until a small picture that could not be had is asked for again."""
LOCAL = ("127.0.0.1", "localhost", "::1")


class Viewer:
    """Serve pages for a node; a context manager. `url` is where."""

    def __init__(self, options: ViewerOptions):
        import viser

        from elvsm_ros.viewer import guard
        from elvsm_ros.viewer.scenery import Scenery

        self._options = options
        self._lock = threading.Lock()
        self._pages: dict[int, Any] = {}
        self._thumbnail_at = 0.0  # when the next one may be asked for; infinite while one is under way
        self._connected = False
        self._held: Any = None
        self._news, self._closing = threading.Event(), threading.Event()
        self._memory: list[tuple[str, str]] = []
        self._camera: Intrinsics | None = None
        """The node's camera as far as camera_info tells: for drawing only."""
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
        # Every page waits for one picture at a time, and there is one thumbnail.
        self._pool = ThreadPoolExecutor(32, "viewer-picture")
        self.client = SceneClient(options.node, node_name="elvsm_viewer", ros_arguments=options.ros)
        self.client.on_change(self._news.set)
        node = self.client.node
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        node.create_subscription(CameraInfo, "camera_info", self._on_camera_info, SENSOR_QOS)
        self._thread = threading.Thread(target=self._follow, name="viewer-follow", daemon=True)
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
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for page in self.pages:
            page.close()
        self._closing.set()
        self._thread.join(10 * TICK)
        with leaving(LEAVE):
            self.client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
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

        page = Page(client, self.client, self._pool, self._newest, lambda: self._memory, self._options.out)
        with self._lock:
            self._pages[client.client_id] = page
        page.refresh()

    def _on_disconnect(self, client: Any) -> None:
        with self._lock:
            page = self._pages.pop(client.client_id, None)
        if page is not None:
            page.close()

    def _newest(self) -> tuple[np.ndarray | None, tuple[float, ...]]:
        poses = self.client.last_keyframes.poses
        return poses[-1] if len(poses) else None, self.scenery.up or UP["+z"]

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == DEVICE_STATUS:
                self._memory = [(pair.key, pair.value) for pair in status.values if "memory" in pair.key]

    def _on_camera_info(self, message: CameraInfo) -> None:
        with contextlib.suppress(ConversionError):
            self._camera = conversions.intrinsics(message)

    def _follow(self) -> None:
        while not self._closing.is_set():
            self._news.wait(TICK)
            self._news.clear()
            try:
                self._tick()
            except Exception as error:  # a page that was closed in the middle of something must not end all
                self.client.node.get_logger().error(f"an update failed: {type(error).__name__}: {error}")

    def _tick(self) -> None:
        """Bring pages and drawings up to date."""
        connected, held = self.client.connected, self.client.last_keyframes
        came_back, self._connected = connected and not self._connected, connected
        self.scenery.show(held, self._camera, self._size.value, self._visible.value)
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
        if time.monotonic() < self._thumbnail_at or not self._connected:
            return
        if any(page.busy for page in self.pages):
            return
        wanted = self.scenery.wants_picture() if self.pages else None
        if wanted is None:
            return
        self._thumbnail_at = math.inf
        self._pool.submit(self._fetch_thumbnail, *wanted)

    def _fetch_thumbnail(self, key: Any, T_world_cam: np.ndarray) -> None:
        camera, picture = self.scenery.camera, None
        camera = camera.stretched(max(2, round(THUMBNAIL * camera.width / camera.height)), THUMBNAIL)
        with contextlib.suppress(SceneClientError, ConversionError):
            picture = self.client.render(T_world_cam, camera, max_views=1, encoding="jpeg")
        self.scenery.set_picture(key, picture)
        # What failed is asked for again, but the node shall not be kept busy with it.
        self._thumbnail_at = 0.0 if picture is not None else time.monotonic() + RETRY


def run(options: ViewerOptions) -> int:
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
