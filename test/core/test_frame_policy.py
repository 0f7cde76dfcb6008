"""Which frame a scene has, and which one a request gets elsewhere."""

import numpy as np
import pytest

import elvsm_core as ec
from elvsm_core.frame import MODEL_RANGE, mean_orientation
from elvsm_core.frame_policy import FrameGrid


def turned(degrees: float, axis: int = 1) -> np.ndarray:
    """Return a rotation [3, 3] about the camera's x (pitch), y (yaw) or z (roll)."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    rotation = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    rotation[i, i], rotation[i, j], rotation[j, i], rotation[j, j] = c, -s, s, c
    return rotation


def pose(position: np.ndarray, rotation: np.ndarray | None = None) -> np.ndarray:
    T = np.eye(4)
    T[:3, 3] = position
    T[:3, :3] = np.eye(3) if rotation is None else rotation
    return T


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def views(rng: np.random.Generator, metres: float, where: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Return eight poses within some metres of a place, looking about the same way."""
    poses = [
        pose(where + rng.uniform(-metres, metres, 3), rotation @ turned(rng.uniform(-8, 8))) for _ in range(8)
    ]
    return np.stack(poses)


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.rad2deg(np.arccos(np.clip((np.sum(a * b) - 1) / 2, -1, 1))))


def same(a: ec.SceneFrame, b: ec.SceneFrame) -> bool:
    return a.scale == b.scale and np.array_equal(a.T_world_anchor, b.T_world_anchor)


@pytest.mark.parametrize("metres", [0.003, 0.3, 20.0])
def test_the_frame_of_a_place_suits_its_views(metres):
    """However the world is oriented, and however far its origin is."""
    rng = np.random.default_rng(3)
    for trial in range(100):
        used = views(rng, metres, rng.normal(size=3) * 10.0 ** (trial % 6), random_rotation(rng))
        frame = FrameGrid().choose(used, used[:1])
        anchor = frame.T_world_anchor[:3, :3]
        np.testing.assert_allclose(anchor.T @ anchor, np.eye(3), atol=1e-9)
        assert np.linalg.det(anchor) > 0
        assert angle(anchor, mean_orientation(used)) < 9, "half a step of yaw, pitch and roll at most"
        middle = np.abs(frame.to_model([pose(used[:, :3, 3].mean(0))])[0, :3, 3])
        assert (middle <= [0.1501, 0.0501, 0.3001]).all()
        assert frame.scale <= 8 and np.log2(frame.scale) % 2 == 0
        assert frame.extent(used) <= 0.71 and (metres < 0.01 or frame.extent(used) > 0.05)


def test_neighbours_get_the_same_frame():
    rng = np.random.default_rng(4)
    shared = []
    for _ in range(200):
        used = views(rng, 0.3, rng.normal(size=3), random_rotation(rng))
        # Four of eight views are others, and the target is five centimetres away.
        others = views(rng, 0.3, used[:, :3, 3].mean(0), used[0, :3, :3])
        moved = np.concatenate([used[:4], others[:4]])
        target = used[:1] + 0.05 * np.eye(4, k=3)
        shared.append(same(FrameGrid().choose(used, used[:1]), FrameGrid().choose(used, target)))
        assert same(FrameGrid().choose(moved, target), FrameGrid().choose(moved.copy(), target.copy()))
    assert np.mean(shared) > 0.9


def test_targets_far_from_all_views_lie_in_the_range_too():
    used = views(np.random.default_rng(5), 0.2, np.zeros(3), np.eye(3))
    target = pose(np.array([0.0, 0.0, 30.0]))[None]
    frame = FrameGrid().choose(used, target)
    assert 0.1 < frame.extent(target) < MODEL_RANGE


def test_views_that_face_all_ways_have_a_frame():
    used = np.stack([pose(np.array([0.1 * i, 0, 0]), turned(90 * i)) for i in range(4)])
    assert FrameGrid().choose(used, used[:1]).extent(used) < MODEL_RANGE


def test_a_camera_that_turns_on_the_spot_gets_new_frames():
    policy, frame, poses, frames = ec.FramePolicy(), None, [], []
    for step in range(24):
        poses.append(pose(np.array([0.01 * (step % 2), 0, 0]), turned(15 * step)))
        frame = policy.next_frame(frame, np.stack(poses))
        frames.append(frame)
        assert angle(frame.T_world_anchor[:3, :3], mean_orientation(np.stack(poses[-4:]))) < 21
    assert 6 < len({id(frame) for frame in frames}) < 20
    here = np.stack(poses[-4:])
    assert policy.suits(frame, here, here)
    assert not policy.suits(frame, np.stack(poses[8:12]), here), "views that look back"
