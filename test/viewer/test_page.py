"""The viewer's page in a real browser, with a real node behind it.

The tests of this file share node and page and come one after another: what one leaves is what the next finds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs the ROS packages: run make")
pytest.importorskip("viser", reason="needs the extra [viewer]: run make")

from PIL import Image
from rig import NodeProcess, Peer, picture, pose_at, wait_until
from std_msgs.msg import Header

from elvsm_ros import conversions
from elvsm_ros.conversions import Intrinsics
from elvsm_ros.viewer.film import Film
from elvsm_ros.viewer.options import parse
from elvsm_ros.viewer.page import Page
from elvsm_ros.viewer.run import Viewer

SIZE = 900, 600
FREE = {"x": 0, "y": 150, "width": 560, "height": 450}
"""Part of the page that neither the panel nor notifications cover, pixels."""


@dataclasses.dataclass
class Stage:
    """A node, its peer, the viewer and the browser's page; what the page complained of."""

    start: Callable[[], NodeProcess]
    node: NodeProcess
    peer: Peer
    viewer: Viewer
    tab: Any
    screenshots: Path
    videos: Path
    errors: list[str]

    @property
    def page(self) -> Page:
        (page,) = self.viewer.pages
        return page

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = 30.0) -> Any:
        """Wait while the browser's events are dealt with."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            self.tab.wait_for_timeout(50)
        raise AssertionError(f"waited {timeout} s in vain: {what}; node: {self.node.output[-2000:]}")

    def at_rest(self) -> None:
        """Wait until the page shows what its camera sees."""

        def done() -> bool:
            view, shown = self.page.view(), self.page.shown
            return (
                not self.page.busy
                and view is not None
                and shown is not None
                and np.array_equal(view.T_world_cam, shown.view.T_world_cam)
                and view.camera == shown.view.camera
            )

        self.wait(done, "the picture of what the camera sees")

    def tally(self) -> tuple[int, int]:
        """Return how many views the node has rendered and how many pictures came to the page, at rest."""
        while True:
            self.at_rest()
            count = self.page.count
            renders = self.peer.fresh_status().renders
            self.tab.wait_for_timeout(100)
            if count == self.page.count:  # else the page's camera was still gliding
                return renders, count

    def photograph(self, name: str, clip: dict[str, int] | None = None) -> np.ndarray:
        data = self.tab.screenshot(path=self.screenshots / f"{name}.png", clip=clip)
        return np.array(Image.open(io.BytesIO(data)).convert("RGB"))

    def photograph_until(
        self, good: Callable[[np.ndarray], bool], name: str, clip: dict[str, int] | None = None
    ) -> np.ndarray:
        """Return what is on the screen once it is as it should be: a busy browser takes its time to draw."""
        return self.wait(
            lambda: [image] if good(image := self.photograph(name, clip)) else None, f"the screen: {name}"
        )[0]

    def drag(self, dx: int, steps: int = 12) -> None:
        mouse = self.tab.mouse
        x, y = 400, 400  # beside the notifications
        mouse.move(x, y)
        mouse.down()
        for step in range(steps):
            mouse.move(x + dx * (step + 1) / steps, y)
            self.tab.wait_for_timeout(30)
        mouse.up()

    def click(self, name: str) -> None:
        self.tab.get_by_role("button", name=name, exact=True).click()

    @contextlib.contextmanager
    def without(self, label: str) -> Iterator[None]:
        """Clear a tick box for a while."""
        self.tab.get_by_text(label, exact=True).click()
        try:
            yield
        finally:
            self.tab.get_by_text(label, exact=True).click()


@pytest.fixture(scope="module")
def stage(
    small_model: Path, browser: Any, screenshots: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    scenes, videos = tmp_path_factory.mktemp("scenes"), tmp_path_factory.mktemp("videos")

    def start() -> NodeProcess:
        return NodeProcess(
            model=str(small_model), status_period=0.1, keyframe_max_rate=0.0, scene_directory=str(scenes)
        )

    with contextlib.ExitStack() as stack:
        node = start()
        stack.callback(lambda: stage.node.close())
        peer = Peer()
        stack.callback(peer.close)
        options = parse(["--port", "18080", "--out", str(videos)])
        viewer = stack.enter_context(Viewer(options))
        # A locale of its own: in that of a bare container, "en-US@posix", the page's scripts fail.
        tab = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, locale="en-US")
        stack.callback(tab.close)
        stage = Stage(start, node, peer, viewer, tab, screenshots, videos, [])
        tab.on("console", lambda m: stage.errors.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda error: stage.errors.append(str(error)))
        node.wait_for("active")
        wait_until(peer.connected, "the node and its peer to find each other")
        tab.set_default_timeout(20_000)
        tab.goto(viewer.url)
        yield stage


def insert_three(stage: Stage) -> None:
    before = len(stage.viewer.client.last_keyframes.ids)
    for k in range(3):
        sent = 0.0

        def there(k: int = k) -> bool:
            nonlocal sent
            # Again and again: images are best effort, and the node may not know this publisher yet.
            if time.monotonic() > sent + 2:
                sent = time.monotonic()
                stage.peer.send_frame(picture(k), pose_at(0.6 * k, 0.15 * k))
            return len(stage.viewer.client.last_keyframes.ids) == before + k + 1

        stage.wait(there, f"keyframe {k + 1} of 3")


def on_page(T_world_cam: np.ndarray, camera: Any, point: np.ndarray) -> np.ndarray:
    """Return where a point of the world is on the page, pixels."""
    x, y, z = (np.linalg.inv(T_world_cam) @ np.append(point, 1.0))[:3]
    u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
    return np.array([u * SIZE[0] / camera.width, v * SIZE[1] / camera.height])


def test_keyframes_appear_with_pictures(stage: Stage) -> None:
    stage.wait(lambda: stage.viewer.pages, "the page to connect")
    stage.tab.get_by_text("is watching").wait_for()
    insert_three(stage)
    stage.wait(lambda: len(stage.viewer.scenery) == 3, "three frusta")
    stage.wait(lambda: stage.viewer.scenery.pictures == 3, "their pictures")
    assert stage.viewer.scenery.up == (0, -1, 0)  # what the peer's cameras hold upright


def test_the_picture_is_the_render_at_the_pose_of_the_camera(stage: Stage) -> None:
    stage.click("Go to the newest camera")
    newest = stage.viewer.client.last_keyframes.poses[-1]
    stage.wait(
        lambda: np.allclose(stage.page.view().T_world_cam, newest, atol=1e-4), "the camera to be there"
    )
    stage.at_rest()
    shown = stage.page.shown
    answer = stage.peer.render(
        [newest], camera_info=conversions.camera_info(shown.view.camera, Header()), encoding="jpeg"
    )
    wanted = conversions.image_to_rgb(answer.compressed_images[0])
    assert np.abs(shown.image.astype(int) - wanted).mean() < 1.0
    # And it is on the screen, the right way round and from edge to edge.
    whole = np.array(Image.fromarray(shown.image).resize(SIZE, Image.Resampling.BILINEAR)).astype(float)
    expected = whole[FREE["y"] :, : FREE["width"]]
    with stage.without("Show keyframes and path"):
        seen = stage.photograph_until(lambda image: np.abs(image - expected).mean() < 6.0, "picture", FREE)
    error = np.abs(seen - expected).mean()
    for other in (expected[::-1], expected[:, ::-1]):
        assert np.abs(seen - other).mean() > 2 * error + 5


def test_frusta_lie_where_the_picture_has_their_places(stage: Stage) -> None:
    """The path is drawn at the pixels that the requested camera sees it at."""
    with stage.without("Rendered picture"):
        stage.drag(60)
        stage.tab.mouse.wheel(0, 1500)  # away from the scene

        def drawn(image: np.ndarray) -> bool:
            red = (image[..., 0] > 150) & (image[..., 1] < 110) & (image[..., 2] < 80)
            view = stage.page.view()
            ends = [
                on_page(view.T_world_cam, view.camera, T[:3, 3])
                for T in stage.viewer.client.last_keyframes.poses
            ]
            middles = [np.round((a + b) / 2).astype(int) for a, b in itertools.pairwise(ends)]
            seen = [(u, v) for u, v in middles if 5 < u < FREE["width"] and FREE["y"] < v < SIZE[1] - 5]
            return bool(seen) and all(red[v - 4 : v + 5, u - 4 : u + 5].any() for u, v in seen)

        stage.photograph_until(drawn, "frusta")
    stage.at_rest()


def test_the_picture_follows_the_camera_and_nothing_queues_up(stage: Stage) -> None:
    renders, count = stage.tally()
    before = stage.page.shown
    stage.drag(150, steps=40)
    renders_after, count_after = stage.tally()
    after = stage.page.shown
    assert not np.allclose(after.view.T_world_cam, before.view.T_world_cam, atol=1e-2)
    assert np.abs(after.image.astype(int) - before.image).mean() > 2.0
    # What the node rendered for the drag came to the page, every bit of it.
    assert renders_after - renders == count_after - count > 0
    assert stage.peer.fresh_status().queue_length == 0


def test_sliders_change_what_is_asked_for(stage: Stage) -> None:
    before = stage.page.shown.view
    boxes = stage.tab.locator("input[inputmode]")
    values = [box.input_value() for box in boxes.all()]
    assert values[:3] == ["0", "60", "256"], values
    for index, value in enumerate(("2", "90", "128")):
        boxes.nth(index).fill(value)
        boxes.nth(index).press("Enter")
        stage.tab.wait_for_timeout(300)  # of what changes within 50 ms, viser's page sends the newest alone

    def followed() -> bool:
        view = stage.page.shown.view
        focal = view.camera.fy / view.camera.height
        # tan(90 degrees / 2) is 1.
        return view.max_views == 2 and view.camera.height == 128 and abs(focal - 0.5) < 0.01

    stage.wait(followed, "a smaller picture of more")
    stage.at_rest()
    after = stage.page.shown
    assert after.answer.views_used == 2 and after.image.shape[0] == 128
    assert before.camera.fy / 256 == pytest.approx(0.866, abs=0.01)  # 60 degrees


def test_buttons_act_on_the_node(stage: Stage) -> None:
    stage.click("Pause")
    stage.peer.wait_for_status(lambda s: s.paused, "paused")
    stage.click("Resume")
    stage.peer.wait_for_status(lambda s: not s.paused, "not paused")
    stage.click("Reset")
    stage.click("Keep them")
    stage.tab.wait_for_timeout(300)
    assert stage.peer.fresh_status().keyframes == 3
    stage.click("Reset")
    stage.click("Forget them")
    stage.peer.wait_for_status(lambda s: s.keyframes == 0, "no keyframes")
    stage.wait(lambda: len(stage.viewer.scenery) == 0, "no frusta")
    insert_three(stage)
    stage.wait(lambda: len(stage.viewer.scenery) == 3, "three frusta")


def test_scenes_are_saved_and_loaded(stage: Stage) -> None:
    kept = np.array(stage.viewer.client.last_keyframes.poses)
    name = stage.tab.locator("input[value=scene]")
    name.fill("kitchen")
    name = stage.tab.locator("input[value=kitchen]")
    name.press("Enter")
    stage.tab.wait_for_timeout(300)
    stage.click("Save")
    stage.tab.get_by_text("Save: done").wait_for()
    stage.click("Reset")
    stage.click("Forget them")
    stage.wait(lambda: len(stage.viewer.scenery) == 0, "no frusta")
    stage.click("Load")
    stage.wait(lambda: len(stage.viewer.scenery) == 3, "the frusta of the file")
    np.testing.assert_allclose(stage.viewer.client.last_keyframes.poses, kept, atol=1e-6)
    name.fill("../kitchen")
    stage.tab.wait_for_timeout(300)
    stage.click("Load")
    stage.tab.get_by_text("Load failed").wait_for()
    assert len(stage.viewer.scenery) == 3


def test_a_recorded_movement_becomes_a_video(stage: Stage) -> None:
    stage.click("Record")
    stage.tab.get_by_role("button", name="Stop recording").wait_for()
    stage.drag(80, steps=30)
    stage.click("Stop recording")
    button = stage.tab.get_by_role("button", name="pictures to a video")
    frames = int(button.inner_text().split()[1])
    with stage.tab.expect_download(timeout=40_000) as download:
        button.click()
        stage.wait(lambda: list(stage.videos.glob("[!.]*.mp4")), "the video")
        stage.tab.get_by_text("The video is ready").wait_for()
        stage.tab.get_by_role("link").last.click()
    (video,) = stage.videos.glob("*.mp4")
    assert download.value.suggested_filename == video.name
    reader = imageio_ffmpeg.read_frames(str(video))
    size = next(reader)["size"]
    assert size[1] == stage.page.view().camera.height
    assert sum(1 for _ in reader) == frames > 5


def test_a_film_that_cannot_be_made_says_why(stage: Stage, tmp_path: Path) -> None:
    ended: list[tuple[Path | None, str]] = []
    Film(
        stage.viewer.client, [pose_at(0.0), pose_at(0.1)], Intrinsics(4e3, 4e3, 4e3, 4e3, 8000, 8000), 0, 15.0,
        tmp_path / "film.mp4", lambda done, total: None, lambda path, error: ended.append((path, error)),
    )  # fmt: skip
    stage.wait(lambda: ended, "the film to end")
    ((path, error),) = ended
    assert path is None and "max_render_pixels" in error
    assert not list(tmp_path.iterdir())


def test_it_goes_on_when_the_node_was_started_again(stage: Stage) -> None:
    stage.node.close()
    stage.tab.get_by_text("does not answer").wait_for()
    stage.photograph("without_node")
    stage.node = stage.start()
    stage.node.wait_for("active")
    wait_until(stage.peer.connected, "the new node and the peer to find each other")
    stage.tab.get_by_text("is watching").wait_for()
    stage.wait(lambda: len(stage.viewer.scenery) == 0, "the old keyframes to go")
    count = stage.page.count
    stage.peer.wait_for_status(lambda s: s.keyframes == 0, "no keyframes")
    insert_three(stage)
    stage.wait(lambda: stage.page.count > count, "a picture by the new node")
    stage.photograph("again")


def test_the_browser_has_nothing_to_complain_of(stage: Stage) -> None:
    assert not stage.errors


@pytest.mark.slow
def test_the_program_serves_on_loopback_and_ends_when_asked(tmp_path: Path) -> None:
    import urllib.request

    program = subprocess.Popen(
        [sys.executable, "-m", "elvsm_ros.viewer", "--port", "18090"], stdout=subprocess.PIPE, text=True,
        env=dict(os.environ, PYTHONUNBUFFERED="1"), cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    try:
        line = next(line for line in program.stdout if "elvsm_viewer:" in line)
        url = line.split()[1]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url, timeout=10) as page:
            assert page.status == 200 and b"<html" in page.read().lower()
        program.send_signal(signal.SIGINT)
        assert program.wait(15) == 0
    finally:
        program.kill()
