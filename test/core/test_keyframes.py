import numpy as np
import pytest

import elvsm_core as ec
from elvsm_core import keyframes


def at(x=0.0, y=0.0, z=0.0, yaw=0.0):
    c, s = np.cos(np.deg2rad(yaw)), np.sin(np.deg2rad(yaw))
    T = np.eye(4)
    T[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    T[:3, 3] = [x, y, z]
    return T


def camera(T):
    return ec.Camera(60, 60, 32, 32, 64, 64, T)


def visibilities(targets, views):
    poses = np.stack([view.T_world_cam for view in views])
    return keyframes.visibilities(targets, poses, np.array([view.fxfycxcy for view in views]), (64, 64))


def select(targets, views, max_views):
    near = keyframes.closeness(targets, np.stack([view.T_world_cam for view in views]))
    return keyframes.select(visibilities(targets, views), near, max_views)


def test_differences():
    metres, radians = keyframes.differences(at(), [at(3, 0, 4), at(yaw=30), at(1, yaw=-170)])
    np.testing.assert_allclose(metres, [5, 0, 1])
    np.testing.assert_allclose(np.rad2deg(radians), [0, 30, 170])


def test_admission_looks_at_every_stored_pose():
    thresholds = {"distance": 0.2, "angle": np.deg2rad(15)}
    assert keyframes.admit(at(), np.zeros((0, 4, 4)), **thresholds)
    stored = np.stack([at(), at(0.5), at(1.0)])
    assert not keyframes.admit(at(0.1), stored, **thresholds)
    assert not keyframes.admit(at(0.5, yaw=14), stored, **thresholds), "near an older pose than the newest"
    assert keyframes.admit(at(0.25), stored, **thresholds)
    assert keyframes.admit(at(0.5, yaw=16), stored, **thresholds)


def test_nearest_weighs_distance_and_angle():
    stored = np.stack([at(0.1), at(0, yaw=20)])
    assert keyframes.nearest(at(), stored, distance=0.2, angle=np.deg2rad(10))[0] == 0
    index, difference = keyframes.nearest(at(), stored, distance=0.01, angle=np.deg2rad(10))
    assert index == 1 and difference == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no stored pose"):
        keyframes.nearest(at(), np.zeros((0, 4, 4)), 0.1, 0.1)


def test_visibilities_are_what_their_definition_says():
    """Against the definition, point by point, a kilometre from the origin."""
    rng = np.random.default_rng(0)
    around = [
        at(1000 + x, y, z, yaw) for x, y, z, yaw in rng.uniform((-2, -1, -2, 0), (2, 1, 2, 360), (30, 4))
    ]
    targets = [ec.Camera(60, 50, 30, 34, 64, 48, T) for T in around[:2]]
    seen = visibilities(targets, [camera(T) for T in around[2:]])
    points = keyframes.frustum_points(targets)
    assert seen.shape == (28, 2, points.shape[1]) and (seen > 0).any(axis=(1, 2)).sum() > 3
    for view, T in enumerate(around[2:]):
        for target in range(2):
            for index, point in enumerate(points[target]):
                x, y, z = T[:3, :3].T @ (point - T[:3, 3])
                inside = z > 0 and abs(60 * x / z) <= 32 and abs(60 * y / z) <= 32
                a, b = point - around[target][:3, 3], point - T[:3, 3]
                near, far = np.linalg.norm(a), np.linalg.norm(b)
                expected = inside * max(0, a @ b / near / far) ** 8 * min(1, near / far)
                assert seen[view, target, index] == pytest.approx(expected, abs=1e-7)


def test_frustum_points_project_to_where_they_were_taken():
    target = ec.Camera(60, 50, 30, 34, 64, 48, at(1, 2, 3, 40))
    local = np.linalg.inv(target.T_world_cam) @ np.c_[keyframes.frustum_points([target])[0], np.ones(36)].T
    u, v = 60 * local[0] / local[2] + 30, 50 * local[1] / local[2] + 34
    assert sorted({round(x, 6) for x in u}) == pytest.approx([64 / 6, 32, 64 * 5 / 6])
    assert sorted({round(x, 6) for x in v}) == pytest.approx([8, 24, 40])
    assert sorted({round(x, 6) for x in local[2]}) == pytest.approx(sorted(keyframes.SAMPLE_DEPTHS))


def test_selection_prefers_views_that_see_what_the_target_sees():
    target = camera(at())
    views = [camera(at(5, yaw=180)), camera(at(0.1)), camera(at(-0.3, yaw=5)), camera(at(z=2, yaw=180))]
    seen = visibilities([target], views)
    assert seen.shape == (4, 1, keyframes.SAMPLE_GRID**2 * len(keyframes.SAMPLE_DEPTHS))
    assert select([target], views, 1) == [1]
    assert set(select([target], views, 2)) == {1, 2}
    assert len(select([target], views, 10)) == 4


def test_selection_covers_all_targets_of_a_request():
    """Two targets back to back: two views, one for each, though one side has ten."""
    views = [camera(at(0.05 * i)) for i in range(10)] + [camera(at(0.1, yaw=180))]
    chosen = select([camera(at()), camera(at(yaw=180))], views, 2)
    assert 10 in chosen


def test_selection_prefers_a_new_angle_to_a_twin():
    """Half of the target's view is seen by three twins, the other half by one view from the side."""
    views = [
        camera(at(yaw=-20)),
        camera(at(0.01, yaw=-20)),
        camera(at(0.02, yaw=-20)),
        camera(at(0.1, yaw=22)),
    ]
    assert set(select([camera(at())], views, 2)) >= {3}


def test_closeness_and_the_neighbours_that_it_prefers():
    target = camera(at())
    poses = np.stack([at(), at(0.6), at(yaw=40), at(0.3, yaw=20), at(10, yaw=180)])
    near = keyframes.closeness([target, camera(at(0.6))], poses)
    np.testing.assert_allclose(near[:4, 0], np.exp([0, -1, -1, -1]))
    assert near.shape == (5, 2) and near[1, 1] == 1 and near[4].max() < 1e-6
    # Two views from farther back see what the target sees no worse than one beside it; the one beside is better.
    views = [camera(at(z=-1.5)), camera(at(0.05, z=-1.5)), camera(at(0.2, yaw=3))]
    assert 2 in select([target], views, 2)
    # Where nothing is seen, the nearest pose counts.
    blind = [camera(at(z=5, yaw=180)), camera(at(z=0.5, yaw=180)), camera(at(z=9, yaw=180))]
    assert visibilities([target], blind).max() == 0 and select([target], blind, 1) == [1]


def test_support_counts_what_is_seen():
    target = camera(at())
    full = keyframes.support(visibilities([target], [camera(at(z=-0.1))]))
    none = keyframes.support(visibilities([target], [camera(at(yaw=180))]))
    half = keyframes.support(visibilities([target], [camera(at(yaw=28))]))
    assert full[0] > 0.9 and none[0] == 0 and 0.2 < half[0] < 0.8


def test_shortlist_keeps_views_for_every_target():
    rng = np.random.default_rng(1)
    far = [at(*rng.uniform(20, 90, 3), yaw=rng.uniform(0, 360)) for _ in range(500)]
    near = [at(0.1 * i) for i in range(4)] + [at(100, yaw=90), at(100.1, yaw=95)]
    stored = np.stack(far + near)
    rows = keyframes.shortlist([camera(at()), camera(at(100, yaw=90))], stored, 12)
    assert len(rows) == 12 and set(range(500, 506)) <= set(rows.tolist())
    assert list(rows) == sorted(rows)
    assert list(keyframes.shortlist([camera(at())], stored[:5], 12)) == [0, 1, 2, 3, 4]
