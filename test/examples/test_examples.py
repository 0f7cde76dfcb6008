"""Every script in examples/ runs: against one real node over DDS, on a folder of images, on a recording."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs the ROS packages: run make")

from PIL import Image
from recordings import write_walk
from rig import CAMERA, NodeProcess, Peer, picture, pixels, pose_at, running, save_small_model, wait_until
from sensor_msgs.msg import Image as ImageMessage

from elvsm_ros import SceneClient

pytestmark = pytest.mark.ros

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TESTED = {
    "render_view", "orbit_video", "posed_images", "replace_views", "save_scene", "loop_closure", "own_node",
    "nearest_keyframe",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.fixture(scope="module")
def node(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Peer]]:
    """Return a node with three keyframes, and a peer that it knows."""
    folder = tmp_path_factory.mktemp("scenes")
    with running(model=str(model), scene_directory=str(folder)) as (process, peer):
        for i in range(3):
            peer.insert(picture(i), pose_at(0.4 * i))
        yield process, peer


@pytest.fixture(scope="module")
def client(node: tuple[NodeProcess, Peer]) -> Iterator[SceneClient]:
    with SceneClient() as client:
        client.wait_until_ready(keyframes=3)
        yield client


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of four images with their cameras in transforms.json, in OpenGL's axes."""
    folder = tmp_path_factory.mktemp("photographs")
    frames = []
    for i in range(4):
        Image.fromarray(picture(i)).save(folder / f"{i}.png")
        matrix = pose_at(0.2 * i) @ np.diag([1.0, -1.0, -1.0, 1.0])
        frames.append({"file_path": f"{i}.png", "transform_matrix": matrix.tolist()})
    c = CAMERA
    about = {"fl_x": c.fx, "fl_y": c.fy, "cx": c.cx, "cy": c.cy, "w": c.width, "h": c.height}
    (folder / "transforms.json").write_text(json.dumps({**about, "frames": frames}))
    return folder


def run(name: str, folder: Path, *arguments: object) -> str:
    """Run an example in a folder and return what it printed."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def load(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def test_every_example_is_tested_and_short() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == TESTED
    for path in EXAMPLES.glob("*.py"):
        code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.S)
        lines = [line for line in code.splitlines() if line.strip() and "import" not in line]
        assert len(lines) <= 26, path.name


def test_render_view(client: SceneClient, tmp_path: Path) -> None:
    run("render_view", tmp_path, "here.png")
    T = client.keyframes().poses[-1].copy()
    T[0, 3] += 0.1
    np.testing.assert_array_equal(load(tmp_path / "here.png"), client.render(T))


def test_the_client_in_the_readme(client: SceneClient, repository: Path) -> None:
    (code,) = re.findall(r"```python\n(from elvsm_ros .*?)```", (repository / "README.md").read_text(), re.S)
    values: dict[str, np.ndarray] = {}
    exec(code, values)
    np.testing.assert_array_equal(values["image"], client.render(client.keyframes().poses[-1]))


def test_orbit_video(client: SceneClient, tmp_path: Path) -> None:
    assert run("orbit_video", tmp_path) == "60 images in orbit.mp4\n"
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "orbit.mp4"))
    assert next(reader)["size"] == (32, 32)
    first, *others = [np.frombuffer(frame, np.uint8).astype(int) for frame in reader]
    assert len(others) == 59
    assert max(np.abs(frame - first).mean() for frame in others) > 5, "the camera stands still"


def test_posed_images(photographs: Path, model: Path, tmp_path: Path) -> None:
    run("posed_images", tmp_path, photographs, model)
    assert load(tmp_path / "view.png").shape == (64, 96, 3)


def test_replace_views(photographs: Path, model: Path, tmp_path: Path) -> None:
    run("replace_views", tmp_path, photographs, model)
    before, replaced, evicted = (
        load(tmp_path / f"{name}.png").astype(int) for name in ("before", "replaced", "evicted")
    )
    for one, other in ((before, replaced), (before, evicted), (replaced, evicted)):
        assert np.abs(one - other).mean() > 1


def test_save_scene(client: SceneClient, tmp_path: Path) -> None:
    stamps = client.keyframes().stamps
    printed = run("save_scene", tmp_path, "kitchen")
    assert "kitchen.safetensors\n0 keyframes after the reset\n3 keyframes loaded" in printed
    assert client.wait_until(lambda: client.last_keyframes.stamps == stamps, 10)


def test_loop_closure(client: SceneClient, tmp_path: Path) -> None:
    before = client.keyframes().poses
    run("loop_closure", tmp_path)
    expected = before[:, 2, 3] - [0.0, 0.025, 0.05]
    assert client.wait_until(
        lambda: np.allclose(client.last_keyframes.poses[:, 2, 3], expected, atol=1e-6), 10
    )


def test_own_node(node: tuple[NodeProcess, Peer], client: SceneClient, tmp_path: Path) -> None:
    _, peer = node
    received: list[ImageMessage] = []
    peer.node.create_subscription(ImageMessage, "/view", received.append, 10)
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "own_node.py")], cwd=tmp_path, stderr=subprocess.PIPE
    )
    try:
        wait_until(lambda: len(received) >= 2, "two images of the example's node", 60)
        np.testing.assert_array_equal(pixels(received[-1]), client.render(client.keyframes().poses[-1]))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0 and b"Traceback" not in errors, errors
    finally:
        process.kill()


def test_nearest_keyframe(model: Path, tmp_path: Path) -> None:
    bag = write_walk(tmp_path / "walk")
    lines = run("nearest_keyframe", tmp_path, bag, model).splitlines()
    assert [line.split(":")[0] for line in lines] == ["image 1", "image 3", "image 5", "image 7", "image 9"]
    assert all(re.search(r"render \d+\.\d dB, nearest keyframe \d+\.\d dB", line) for line in lines)
