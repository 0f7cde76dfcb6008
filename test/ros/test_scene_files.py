"""Scenes in files: what names mean, what a loaded scene is like, and what files cannot do to a node."""

from __future__ import annotations

import json
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rclpy.qos import DurabilityPolicy, QoSProfile
from rig import (
    CAMERA,
    NodeProcess,
    Peer,
    camera_at,
    header,
    picture,
    pixels,
    pose_at,
    running,
    wait_until,
)
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger

import elvsm_core as ec
from elvsm.msg import Keyframes
from elvsm.srv import LoadScene, RenderViews, SaveScene
from elvsm_core.files.persistence import write_scene
from elvsm_core.files.scene_reading import read_scene
from elvsm_ros import conversions
from elvsm_ros.keyframes import scene_files
from elvsm_ros.keyframes.scene_files import SceneNameError

Pair = tuple[NodeProcess, Peer]


# Names


def test_a_name_means_a_file_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "not" / "yet"
    assert scene_files.resolve(str(folder), "kitchen") == folder / "kitchen.safetensors"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert scene_files.resolve(str(folder), "k.1_b-2.safetensors") == folder / "k.1_b-2.safetensors"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert scene_files.resolve("", "a") == tmp_path / "state" / "elvsm" / "scenes" / "a.safetensors"
    (tmp_path / "link").symlink_to(folder)  # whoever sets the parameter may do that
    assert scene_files.resolve(str(tmp_path / "link"), "a") == folder / "a.safetensors"
    (folder / "inner.safetensors").symlink_to(folder / "other.safetensors")
    assert scene_files.resolve(str(folder), "inner") == folder / "inner.safetensors"


NAMES = [
    "",
    ".",
    "..",
    "../x",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "~",
    ".hidden",
    "-rf",
    "a b",
    "a\nb",
    "ä",
    "x" * 101,
    "a\0",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_anything_else_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SceneNameError, match="scene name"):
        scene_files.resolve(str(tmp_path), name)
    assert not list(tmp_path.iterdir())


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    folder.mkdir()
    for name, target in (
        ("up", tmp_path / "secret"),
        ("round", folder / ".." / "secret"),
        ("etc", Path("/etc/passwd")),
    ):
        (folder / f"{name}.safetensors").symlink_to(target)
        with pytest.raises(SceneNameError, match="leads out of"):
            scene_files.resolve(str(folder), name)


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            SceneNameError, match=r"scene_directory .* cannot be made \(.*/file is a file\): set it to"
        ):
            scene_files.resolve(str(folder), "a")


# Over DDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def pair(small_model: Path, folder: Path) -> Iterator[Pair]:
    with running(model=str(small_model), log_period=0.0, scene_directory=str(folder)) as found:
        yield found


@pytest.fixture
def lists(pair: Pair) -> Iterator[list[Keyframes]]:
    """Return the lists of keyframes that the node publishes."""
    found: list[Keyframes] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    subscription = pair[1].node.create_subscription(Keyframes, "/elvsm/keyframe_list", found.append, latched)
    yield found
    pair[1].node.destroy_subscription(subscription)


@pytest.fixture
def peer(pair: Pair) -> Peer:
    """Return the peer of a node with four keyframes."""
    peer = pair[1]
    assert peer.call(Trigger, "/elvsm/reset", Trigger.Request()).success
    for i in range(4):
        peer.insert(picture(i), pose_at(0.5 * i))
    peer.wait_for_status(lambda s: s.keyframes == 4, "four keyframes")
    return peer


def save(peer: Peer, name: str) -> SaveScene.Response:
    return peer.call(SaveScene, "/elvsm/save_scene", SaveScene.Request(name=name))


def load(peer: Peer, name: str) -> LoadScene.Response:
    return peer.call(LoadScene, "/elvsm/load_scene", LoadScene.Request(name=name))


def view(peer: Peer, x: float = 0.6) -> np.ndarray:
    answer = peer.render([pose_at(x)])
    assert answer.success, answer.message
    return pixels(answer.images[0])


def test_a_scene_comes_back_as_it_was(pair: Pair, peer: Peer, lists: list[Keyframes], folder: Path) -> None:
    clouds: list[PointCloud2] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.node.create_subscription(PointCloud2, "/elvsm/keyframe_cloud", clouds.append, latched)
    wait_until(lambda: lists and len(lists[-1].ids) == 4, "a list of four keyframes")
    before, listed = view(peer), lists[-1]
    answer = save(peer, "kitchen")
    assert answer.success and answer.keyframes == 4, answer.message
    assert Path(answer.path) == folder / "kitchen.safetensors"
    extra = read_scene(answer.path).extra
    assert extra["world_frame"] == "map" and extra["settings"]["max_keyframes"] == 1000
    assert len(extra["model"]["id"]) == 12

    assert peer.call(Trigger, "/elvsm/reset", Trigger.Request()).success
    peer.insert(picture(9), pose_at(7.0))
    other = peer.status.keyframes_inserted
    answer = load(peer, "kitchen.safetensors")
    assert answer.success and answer.keyframes == 4, answer.message
    wait_until(lambda: lists[-1].ids == listed.ids, "the list of keyframes as it was")
    assert lists[-1].stamps == listed.stamps and lists[-1].poses == listed.poses
    wait_until(lambda: clouds and clouds[-1].width == 4, "a cloud of four keyframes")
    points = np.frombuffer(clouds[-1].data, "<u4").reshape(4, 5)
    assert points[:, 4].tolist() == list(listed.ids)
    np.testing.assert_array_equal(points.view("<f4")[:, 0], [0.0, 0.5, 1.0, 1.5])
    for colour, i in zip(points[:, 3], range(4), strict=True):
        mean = picture(i)[:, 16:80].reshape(-1, 3).mean(0)  # what a keyframe keeps
        assert np.abs([colour >> 16, colour >> 8 & 255, colour & 255] - mean).max() < 6
    np.testing.assert_array_equal(view(peer), before)
    peer.wait_for_status(lambda s: s.keyframes == 4, "four keyframes")
    # Places are taken as they were, the one of the scene between is free, and ids are new.
    peer.send_frame(picture(8), pose_at(0.52))
    assert peer.fresh_status().keyframes_inserted == other
    peer.insert(picture(9), pose_at(7.0))
    wait_until(lambda: len(lists[-1].ids) == 5, "a list of five keyframes")
    assert lists[-1].ids[4] > max(listed.ids) + 1
    assert save(peer, "kitchen").success  # in place of the old one
    assert load(peer, "kitchen").keyframes == 5


def test_another_node_shows_what_was_saved(
    peer: Peer, start_node: Callable[..., NodeProcess], folder: Path, tmp_path: Path, small_model: Path
) -> None:
    """One that saw no camera, and one with another model, which encodes the images anew."""
    assert save(peer, "shared").success
    expected = view(peer)
    same = start_node("-r", "__node:=same", scene_directory=str(folder), max_keyframes=3)
    torch.manual_seed(5)
    model = ec.EfficientLVSM(
        ec.ModelConfig(width=32, head_dim=32, layers=1, patch_size=8, image_size=(32, 32))
    )
    ec.save_model(model, tmp_path / "tiny.safetensors")
    other = start_node(
        "-r", "__node:=other", scene_directory=str(folder), model=tmp_path / "tiny.safetensors"
    )
    pose = conversions.matrix_to_pose(pose_at(0.6))
    info = conversions.camera_info(CAMERA, header(0, ""))
    for node, name in ((same, "same"), (other, "other")):
        node.wait_for("active")
        answer = peer.call(LoadScene, f"/{name}/load_scene", LoadScene.Request(name="shared"))
        assert answer.success, answer.message
        blank = peer.call(RenderViews, f"/{name}/render_views", RenderViews.Request(poses=[pose]))
        assert blank.success and blank.images[0].width == 32, blank.message
        request = RenderViews.Request(poses=[pose], camera_info=info, width=32, height=32)
        shown = peer.call(RenderViews, f"/{name}/render_views", request)
        assert shown.success, shown.message
        if name == "same":
            assert answer.keyframes == 3 and "1 more are left out by max_keyframes" in answer.message
        else:
            assert answer.keyframes == 4 and "is encoded anew with" in answer.message
            scene = ec.Scene.load(folder / "shared.safetensors", ec.load_model(tmp_path / "tiny.safetensors"))
            wanted = scene.render([camera_at(pose_at(0.6), CAMERA.fitted(32, 32))], max_views=4).images[0]
            assert np.abs(pixels(shown.images[0]).astype(int) - wanted).max() <= 1
            assert np.abs(pixels(shown.images[0]).astype(int) - expected).max() > 3


def older(source: Path, target: Path) -> None:
    """Write a scene file of a version that this program does not know any more."""
    text = source.read_bytes()
    (size,) = struct.unpack("<Q", text[:8])
    head = json.loads(text[8 : 8 + size])
    scene = json.loads(head["__metadata__"]["scene"])
    head["__metadata__"]["scene"] = json.dumps({**scene, "version": 0})
    new = json.dumps(head).encode()
    target.write_bytes(struct.pack("<Q", len(new)) + new + text[8 + size :])


def test_what_is_no_scene_of_ours_changes_nothing(
    pair: Pair, peer: Peer, folder: Path, small_model: Path
) -> None:
    good = Path(save(peer, "good").path)
    stored = read_scene(good)
    content = good.read_bytes()
    (folder / "truncated.safetensors").write_bytes(content[:-500])
    (folder / "flipped.safetensors").write_bytes(content[:-500] + bytes([content[-500] ^ 1]) + content[-499:])
    (folder / "foreign.safetensors").write_bytes(b"PK\x03\x04 something else " * 20)
    (folder / "model.safetensors").write_bytes(small_model.read_bytes())
    older(good, folder / "older.safetensors")
    (folder / "folder.safetensors").mkdir()
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "out.safetensors").symlink_to(small_model)
    scene = ec.Scene(ec.load_model(small_model), image_size=(16, 16))
    scene.insert(picture(0), camera_at(pose_at(0.0)))
    scene.save(folder / "small.safetensors")
    ec.Scene(ec.load_model(small_model)).save(folder / "empty.safetensors")
    write_scene(
        folder / "odom.safetensors",
        stored.__class__(**{**vars(stored), "extra": {"world_frame": "odom"}}),
        {},
    )
    odd = {"world_frame": "map", "model": 3}
    write_scene(folder / "odd.safetensors", stored.__class__(**{**vars(stored), "extra": odd}), {})
    surrogate = {"world_frame": "map\ud800"}
    write_scene(
        folder / "surrogate.safetensors", stored.__class__(**{**vars(stored), "extra": surrogate}), {}
    )
    cases = {
        "truncated": "truncated", "flipped": "does not match its SHA-256", "foreign": "not a scene file",
        "model": "not a scene file", "older": "version 0", "folder": "no scene file", "pipe": "no scene file",
        "absent": "no scene file", "out": "leads out of", "../good": "not a plain file name",
        str(good): "not a plain file name", "small": "16x16 pixels", "empty": "no keyframe",
        "odd": "no elvsm node wrote", "surrogate": "no elvsm node wrote", "odom": "recorded in the frame 'odom'",
    }  # fmt: skip
    before = view(peer)
    for name, text in cases.items():
        lines = len(pair[0].lines)
        answer = load(peer, name)
        assert not answer.success and text in answer.message, (name, answer.message)
        wait_until(
            lambda n=lines, t=text: any(t in line for line in pair[0].lines[n:]), f"a line about {name}"
        )
        assert answer.keyframes == 0
    np.testing.assert_array_equal(view(peer), before)
    assert peer.fresh_status().keyframes == 4
    for name, text in (
        ("../x", "not a plain"), ("out", "leads out of"), ("folder", "is a directory"), ("pipe", "no regular file"),
        ("model", "not overwritten"),
    ):  # fmt: skip
        answer = save(peer, name)
        assert not answer.success and text in answer.message, answer.message
    assert (folder / "out.safetensors").is_symlink() and good.read_bytes() == content
    assert peer.call(Trigger, "/elvsm/reset", Trigger.Request()).success
    assert "nothing to save" in save(peer, "good").message and good.read_bytes() == content


def test_saving_and_loading_while_images_come_and_renders_are_asked_for(peer: Peer, folder: Path) -> None:
    done = threading.Event()
    failures: list[str] = []
    rendered = 0

    def render() -> None:
        nonlocal rendered
        while not done.is_set():
            answer = peer.render([pose_at(0.3)])
            rendered += 1
            if not answer.success:
                failures.append(answer.message)

    client = threading.Thread(target=render)
    client.start()
    try:
        for i in range(12):
            peer.send_frame(picture(i), pose_at(3.0 + 0.5 * i))
            answer = save(peer, f"busy{i % 2}")
            assert answer.success, answer.message
            assert len(read_scene(answer.path).views) == answer.keyframes >= 4
            if i % 4 == 3:
                assert load(peer, "busy0").success
    finally:
        done.set()
        client.join()
    assert rendered > 5 and not failures
    assert load(peer, "busy1").success
    count = len(read_scene(folder / "busy1.safetensors").views)
    assert peer.fresh_status().keyframes == count


def test_killed_while_saving_it_leaves_the_old_file_or_the_new_one(
    peer: Peer, start_node: Callable[..., NodeProcess], small_model: Path, tmp_path: Path
) -> None:
    scene = ec.Scene(ec.load_model(small_model))
    for i in range(2):
        scene.insert(picture(i), camera_at(pose_at(0.5 * i)))
    stored = scene.snapshot()
    big = {i: stored.views[i % 2] for i in range(4000)}  # so many that writing takes a moment
    many = stored.__class__(**{**vars(stored), "views": big, "next_id": 4000})
    write_scene(tmp_path / "many.safetensors", many, {})
    scene.save(tmp_path / "room.safetensors")
    interrupted = 0
    for attempt in range(2):
        node = start_node("-r", f"__node:=k{attempt}", scene_directory=str(tmp_path), max_keyframes=4000)
        node.wait_for("active")
        answer = peer.call(LoadScene, f"/k{attempt}/load_scene", LoadScene.Request(name="many"), 60.0)
        assert answer.success, answer.message
        peer.start_call(SaveScene, f"/k{attempt}/save_scene", SaveScene.Request(name="room"))
        deadline = time.monotonic() + 20
        while not list(tmp_path.glob(".room*.part")):
            assert time.monotonic() < deadline, "the file was never begun"
        node.signal(signal.SIGKILL)
        interrupted += bool(list(tmp_path.glob(".room*.part")))
        assert len(read_scene(tmp_path / "room.safetensors").views) == 2
        if interrupted:
            break
    assert interrupted, "the node was never killed in the middle of a file: the test shows nothing"
