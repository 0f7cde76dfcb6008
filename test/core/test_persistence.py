import dataclasses
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch

import elvsm_core as ec
from elvsm_core.files import persistence
from elvsm_core.files.persistence import write_scene
from elvsm_core.files.scene_reading import read_scene


@pytest.fixture
def scene(tiny_model, walk):
    scene = ec.Scene(tiny_model, capacity=3)
    for i, (image, camera) in enumerate(walk[:5]):
        scene.insert(image, camera, stamp=1.5 * i if i else None)
    scene.evict(scene.views[1])
    return scene


def target(walk):
    return [walk[2][1].resized(32, 32)]


def test_a_loaded_scene_renders_the_same(scene, tiny_model, walk, tmp_path):
    scene.save(tmp_path / "room.scene")
    loaded = ec.Scene.load(tmp_path / "room.scene", tiny_model, capacity=3)
    assert loaded.views == scene.views and loaded.image_size == scene.image_size
    assert [loaded.keyframe(v).stamp for v in loaded.views] == [None, 3.0, 4.5, 6.0]
    np.testing.assert_array_equal(loaded.poses, scene.poses)
    torch.testing.assert_close(
        loaded.render_tensor(target(walk)), scene.render_tensor(target(walk)), atol=0, rtol=0
    )
    assert loaded.insert(*walk[7]) == scene.insert(*walk[7]), "ids go on where they were"
    torch.testing.assert_close(
        loaded.render_tensor(target(walk)), scene.render_tensor(target(walk)), atol=0, rtol=0
    )


def test_another_model_encodes_the_images_anew(scene, walk, tmp_path):
    scene.save(tmp_path / "room.scene")
    other = ec.EfficientLVSM(ec.ModelConfig(width=32, head_dim=32, layers=1)).eval()
    loaded = ec.Scene.load(tmp_path / "room.scene", other)
    assert loaded.render(target(walk)).images.shape == (1, 32, 32, 3)
    coarse = ec.EfficientLVSM(
        ec.ModelConfig(width=32, head_dim=32, layers=1, patch_size=24, image_size=(48, 48))
    )
    with pytest.raises(ValueError, match="patch size 24"):
        ec.Scene.load(tmp_path / "room.scene", coarse)


def test_an_empty_scene_can_be_kept(tiny_model, tmp_path):
    ec.Scene(tiny_model).save(tmp_path / "empty.scene")
    assert len(ec.Scene.load(tmp_path / "empty.scene", tiny_model)) == 0


def test_damaged_and_foreign_files_are_refused(scene, tiny_model, tmp_path):
    path = tmp_path / "room.scene"
    scene.save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-1000] ^= 1
    ec.save_model(tiny_model, tmp_path / "model.safetensors")
    cases = {
        "truncated": (whole[:-100], "truncated"),
        "empty": (b"", "truncated"),
        "foreign": (b"PK\x03\x04 something else entirely" * 10, "truncated, or not a scene"),
        "model": ((tmp_path / "model.safetensors").read_bytes(), "not a scene file"),
        "flipped": (bytes(flipped), "damaged"),
        "newer": (whole.replace(b'\\"version\\": 2', b'\\"version\\": 9'), "version 9"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ec.SceneFileError, match=f"{name}.*{reason}"):
            ec.Scene.load(tmp_path / name, tiny_model)
    with pytest.raises(ec.SceneFileError, match="no scene file"):
        ec.Scene.load(tmp_path / "absent", tiny_model)


def test_what_cannot_be_a_scene_is_refused(scene, tiny_model, tmp_path, monkeypatch):
    """Files with a right hash and wrong content: made by another program, or by somebody who means harm."""
    stored = scene.snapshot()
    first = min(stored.views)
    frameless = dataclasses.replace(stored, frame=None)
    ids, endless = dataclasses.replace(stored, next_id=1), dataclasses.replace(stored, next_id=10**30)
    image = torch.zeros(8, 8, 3).byte()
    views = {**stored.views, first: dataclasses.replace(stored.views[first], image=image)}
    small = dataclasses.replace(stored, views=views)
    monkeypatch.setattr(persistence, "LAST_ID", 10**40)  # a writer that does not care
    for name, bad, reason in (
        ("frameless", frameless, "views, but no frame"), ("ids", ids, "below next_id"),
        ("endless", endless, "next_id is 1000"), ("small", small, "truncated"),
    ):  # fmt: skip
        write_scene(tmp_path / name, bad, {})
        with pytest.raises(ec.SceneFileError, match=reason):
            ec.Scene.load(tmp_path / name, tiny_model)


def test_whatever_is_in_a_file_there_is_one_kind_of_error(scene, tmp_path):
    path, rng = tmp_path / "room.scene", random.Random(0)
    scene.save(path)
    whole = path.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(rng.choice([head, len(content)]))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
        try:
            read_scene(path)
        except ec.SceneFileError:
            refused += 1
    assert refused > 350


def test_a_file_is_one_of_safetensors_and_holds_what_was_added(scene, tmp_path):
    stored = dataclasses.replace(scene.snapshot(), extra={"world_frame": "map", "stamps": [1, 2]})
    write_scene(tmp_path / "room", stored, {"model": "demo"})
    tensors = safetensors.torch.load_file(tmp_path / "room")
    assert tensors["images"].shape == (4, 32, 32, 3) and tensors["ids"].tolist() == scene.views
    for i, view in enumerate(scene.views):
        assert torch.equal(tensors["images"][i], scene.keyframe(view).image)
    assert read_scene(tmp_path / "room").extra == stored.extra


def test_content_is_exchanged_in_one_step_and_new_ids_stay_new(scene, tiny_model, walk):
    stored = scene.snapshot()
    before = scene.render_tensor(target(walk))
    other = ec.Scene(tiny_model, capacity=3, max_keyframes=3)
    for image, camera in walk[3:8]:
        other.insert(image, camera)
    unpacked = other.unpack(stored)
    assert other.views == [2, 3, 4], "nothing has changed yet"
    assert len(unpacked.keyframes) == 3, "no more than the scene may hold"
    whole = ec.Scene(tiny_model, capacity=3)
    for image, camera in walk[:8]:
        whole.insert(image, camera)
    whole.adopt(whole.unpack(stored))
    assert whole.views == scene.views
    torch.testing.assert_close(whole.render_tensor(target(walk)), before, atol=0, rtol=0)
    assert whole.insert(*walk[7]) == 8, "an id that neither of them had used"
    assert list(stored.views) == scene.views, "a snapshot does not follow the scene"
    coarse = ec.Scene(tiny_model, image_size=(16, 16))
    with pytest.raises(
        ec.SceneError, match=r"32x32 pixels and this scene's have 16x16.*image_size \(32, 32\)"
    ):
        coarse.unpack(stored)


def test_a_failed_write_leaves_the_old_file(scene, tmp_path, monkeypatch):
    path = tmp_path / "room.scene"
    scene.save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            scene.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["room.scene"]


@pytest.mark.slow
def test_a_killed_writer_leaves_the_old_file_and_its_traces_go_with_the_next(scene, walk, tmp_path):
    path = tmp_path / "room [1].scene"
    scene.save(path)
    before = path.read_bytes()
    child = os.fork()
    if not child:  # in the writer: die in the middle of the file
        calls = iter(range(3))

        class Killed:
            def numpy(self):
                if next(calls) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return np.zeros((32, 32, 3), np.uint8)

        stored = scene.snapshot()
        views = {i: dataclasses.replace(k, image=Killed()) for i, k in stored.views.items()}
        write_scene(path, dataclasses.replace(stored, views=views), {})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert path.read_bytes() == before and len(os.listdir(tmp_path)) == 2
    scene.insert(*walk[6])
    scene.save(path)
    assert os.listdir(tmp_path) == [path.name] and len(read_scene(path).views) == 5


def with_camera(stored, **changes):
    """Put a camera into a scene that no Camera can be."""
    first = min(stored.views)
    camera = stored.views[first].camera
    fake = {"fxfycxcy": camera.fxfycxcy, "T_world_cam": camera.T_world_cam} | changes
    views = {**stored.views, first: dataclasses.replace(stored.views[first], camera=SimpleNamespace(**fake))}
    return dataclasses.replace(stored, views=views)


def far(x):
    T = np.eye(4)
    T[0, 3] = x
    return T


def test_cameras_and_frames_that_float32_cannot_hold_are_refused_with_a_right_checksum(scene, tmp_path):
    stored = scene.snapshot()
    frame = SimpleNamespace(T_world_anchor=np.eye(4), scale=1e300)
    lost = {i: dataclasses.replace(k, stamp=1e300) for i, k in stored.views.items()}
    for name, bad, reason in (
        ("nan", with_camera(stored, T_world_cam=far(np.nan)), "NaN"),
        ("far", with_camera(stored, T_world_cam=far(1e30)), "within"),
        ("huge", with_camera(stored, fxfycxcy=(30, 30, 1e39, 16)), "principal point"),
        ("tiny", with_camera(stored, fxfycxcy=(1e-40, 30, 16, 16)), "focal lengths"),
        ("inf", with_camera(stored, fxfycxcy=(30, np.inf, 16, 16)), "fy is inf"),
        ("scale", dataclasses.replace(stored, frame=frame), "scale of a SceneFrame"),
        ("stamps", dataclasses.replace(stored, views=lost), "stamps"),
    ):
        write_scene(tmp_path / name, bad, {})
        with pytest.raises(ec.SceneFileError, match=f"{name}.*{reason}"):
            read_scene(tmp_path / name)


def test_ids_near_the_end_are_written_so_that_they_can_be_read(scene, tiny_model, walk, tmp_path):
    stored = scene.snapshot()
    write_scene(tmp_path / "last", dataclasses.replace(stored, next_id=persistence.LAST_ID), {})
    loaded = ec.Scene.load(tmp_path / "last", tiny_model)
    assert loaded.insert(*walk[7]) == persistence.LAST_ID
    loaded.save(tmp_path / "again")
    assert len(ec.Scene.load(tmp_path / "again", tiny_model)) == len(loaded)


def declaring(path, count, height, width, scene, size=None):
    """Write a sparse file whose header declares keyframes that are nowhere."""
    whole = scene.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    head = json.loads(whole[8 : 8 + length])
    inner = {**json.loads(head["__metadata__"]["scene"]), "image_size": [height, width], "next_id": count}
    shapes = {"T_world_cam": (count, 4, 4), "fxfycxcy_stamp": (count, 5), "ids": (count,), "lens_size": (count, 6),
              "images": (count, height, width, 3), "pictures": (0,)}  # fmt: skip
    metadata = {**head["__metadata__"], "scene": json.dumps(inner)}
    start = persistence._head(shapes, metadata)
    path.write_bytes(start)
    end = json.loads(start[8:])["pictures"]["data_offsets"][1]
    os.truncate(path, len(start) + end if size is None else size)


READ = """
import resource, sys, time
import elvsm_core as ec
from elvsm_core.files.scene_reading import read_scene
before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
try:
    read_scene(sys.argv[1])
except ec.SceneFileError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "height", "width", "size", "reason"),
    [
        (100_000, 256, 256, None, "20000 at most"),
        (19_000, 4096, 4096, None, "are free"),
        (1000, 256, 256, 100_000, "declares"),
        (2**60, 256, 256, 100_000, "declares"),
        (1, 2**40, 256, 100_000, "whole number"),
        (0, 70_000, 256, None, "whole number"),
    ],
)
def test_what_a_header_declares_is_checked_before_anything_is_read(
    scene, tmp_path, count, height, width, size, reason
):
    """20 GB in a sparse file, say: rejected without reading it, in no memory."""
    scene.save(tmp_path / "room")
    declaring(tmp_path / "bomb", count, height, width, tmp_path / "room", size)
    run = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "bomb")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    kilobytes, message = run.stdout.split(" ", 1)
    assert reason in message and str(tmp_path / "bomb") in message
    assert int(kilobytes) < 50_000


def test_a_long_header_and_a_deep_one_are_refused(scene, tmp_path):
    for name, text in (("deep", b"[" * 1_000_000), ("deep object", b'{"a":' * 500_000), ("list", b"[1, 2]")):
        (tmp_path / name).write_bytes(struct.pack("<Q", len(text)) + text)
        with pytest.raises(ec.SceneFileError, match="not a scene file"):
            read_scene(tmp_path / name)
    (tmp_path / "long").write_bytes(struct.pack("<Q", 1 << 40) + b" " * 100)
    os.truncate(tmp_path / "long", 1 << 41)
    with pytest.raises(ec.SceneFileError, match="not a scene file"):
        read_scene(tmp_path / "long")


def test_other_things_than_files_are_refused_at_once(scene, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "loop", "zero"):
        with pytest.raises(ec.SceneFileError, match=name):
            read_scene(tmp_path / name)
    for name, reason in (("folder", "is a directory"), ("pipe", "no regular file")):
        with pytest.raises(ec.SceneFileError, match=reason):
            scene.save(tmp_path / name)


def test_what_is_no_scene_is_not_overwritten(scene, tiny_model, tmp_path):
    path = tmp_path / "weights.safetensors"
    ec.save_model(tiny_model, path)
    before = path.read_bytes()
    with pytest.raises(ec.SceneFileError, match="not a scene file and is not overwritten"):
        scene.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.slow
def test_a_file_that_is_overwritten_and_cut_while_it_is_read_is_an_error_or_whole(scene, tmp_path):
    """Whoever copies over a file that is being loaded, or cuts it, kills nobody (a mapped file would: SIGBUS)."""
    stored = scene.snapshot()
    (one, *_) = stored.views.values()
    big = dataclasses.replace(stored, views=dict.fromkeys(range(3000), one), next_id=3000)
    path = tmp_path / "room"
    write_scene(path, big, {})
    whole = path.read_bytes()
    program = (
        "import sys, elvsm_core as ec\nfrom elvsm_core.files.scene_reading import read_scene\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    try: print(len(read_scene(sys.argv[1]).views), flush=True)\n"
        "    except ec.SceneFileError as error: print('error', error, flush=True)\n"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdin is not None and reader.stdout is not None
    reader.stdout.readline()
    answers = []
    for k in range(12):
        reader.stdin.write("read\n")
        reader.stdin.flush()
        time.sleep(0.002 * k)
        os.truncate(path, len(whole) // 2)
        path.write_bytes(whole)  # in place, as cp does it
        answers.append(reader.stdout.readline())
    reader.stdin.close()
    assert reader.wait() == 0
    assert all(answer.startswith(("3000", "error")) for answer in answers)
    assert any(answer.startswith("error") for answer in answers), "nothing was cut in time"


def test_many_writers_of_one_name_never_fail(scene, tmp_path):
    failures = []

    def write():
        for _ in range(60):
            try:
                scene.save(tmp_path / "room")
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "room").exists():
            assert len(read_scene(tmp_path / "room").views) == 4
    assert not failures and os.listdir(tmp_path) == ["room"]
