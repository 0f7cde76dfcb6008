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
    return keyframes.visibilities(keyframes.Targets.of(targets), keyframes.Views.of(views))


def closeness(targets, views):
    return keyframes.closeness(keyframes.Targets.of(targets), keyframes.Views.of(views))


def select(targets, views, max_views):
    return keyframes.select(visibilities(targets, views), closeness(targets, views), max_views)


def shortlist(targets, views, count):
    return keyframes.shortlist(keyframes.Targets.of(targets), views, count).tolist()


def anywhere(rng, n, extent):
    """Return cameras that stand anywhere in a square of `extent` metres, and look any way."""
    places = rng.uniform((0, -1, 0, 0), (extent, 1, extent, 360), (n, 4))
    return [camera(at(x, y, z, yaw)) for x, y, z, yaw in places]


def test_differences():
    metres, radians = keyframes.differences(at(), [at(3, 0, 4), at(yaw=30), at(1, yaw=-170)])
    np.testing.assert_allclose(metres, [5, 0, 1])
    np.testing.assert_allclose(np.rad2deg(radians), [0, 30, 170])
    metres, radians = keyframes.differences(at(1, 2, 3, 30), [at(1, 2, 3, 50), at(1, 2, 1, -20)])
    np.testing.assert_allclose(metres, [0, 2])
    np.testing.assert_allclose(np.rad2deg(radians), [20, 50])


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
    """Against the definition, point by point, a hundred kilometres from the origin, with targets far apart."""
    rng = np.random.default_rng(0)
    around = [
        at(1e5 + x, y, z, yaw) for x, y, z, yaw in rng.uniform((-2, -1, -2, 0), (2, 1, 2, 360), (30, 4))
    ]
    around[1] = at(2e5, 0, 0, 30)
    around[2:10] = [
        at(2e5 + x, y, z, 30 + yaw) for x, y, z, yaw in rng.uniform(-1, 1, (8, 4)) * (1, 1, 1, 30)
    ]
    targets = [ec.Camera(60, 50, 30, 34, 64, 48, T) for T in around[:2]]
    views = [ec.Camera(60, 70, 32, 36, 64, 80, T) for T in around[2:]]
    seen = visibilities(targets, views)
    points = keyframes.Targets.of(targets).points.swapaxes(1, 2) + np.stack(around[:2])[:, None, :3, 3]
    assert seen.shape == (28, 2, points.shape[1]) and ((seen > 0).any(axis=2).sum(axis=0) > 3).all()
    for view, T in enumerate(around[2:]):
        for target in range(2):
            for index, point in enumerate(points[target]):
                x, y, z = T[:3, :3].T @ (point - T[:3, 3])
                u, v = (60 * x / z + 32, 70 * y / z + 36) if z > 0 else (-1, -1)
                inside = 0 <= u <= 64 and 0 <= v <= 80
                a, b = point - around[target][:3, 3], point - T[:3, 3]
                near, far = np.linalg.norm(a), np.linalg.norm(b)
                expected = inside * max(0, a @ b / near / far) ** 8 * min(1, near / far)
                assert seen[view, target, index] == pytest.approx(expected, abs=1e-5)


def test_a_view_at_a_point_that_is_looked_at_is_no_exception():
    target = camera(at())
    point = keyframes.Targets.of([target]).points[0, :, 0]
    seen = visibilities([target], [camera(at(*point)), target])
    assert np.isfinite(seen).all() and seen.min() >= 0 and seen.max() <= 1
    np.testing.assert_allclose(seen[1], 1, atol=1e-6)


def test_what_is_found_out_of_a_target_does_not_depend_on_the_others():
    """Or a part of a request, or a request served together with others, would get another answer."""
    rng = np.random.default_rng(3)
    targets, views = anywhere(rng, 8, 5), anywhere(rng, 40, 5)
    together = visibilities(targets, views)
    for part in (slice(0, 1), slice(3, 7)):
        np.testing.assert_array_equal(visibilities(targets[part], views), together[:, part])


def test_targets_look_at_points_that_project_to_where_they_were_taken():
    target = ec.Camera(60, 50, 30, 34, 64, 48, at(1, 2, 3, 40))
    wide = ec.Camera(30, 30, 32, 24, 64, 48, at(1, 2, 3, 40))
    both = keyframes.Targets.of([target, wide])
    local = target.T_world_cam[:3, :3].T @ both.points[0]
    u, v = 60 * local[0] / local[2] + 30, 50 * local[1] / local[2] + 34
    assert sorted({round(x, 6) for x in u}) == pytest.approx([64 / 6, 32, 64 * 5 / 6])
    assert sorted({round(x, 6) for x in v}) == pytest.approx([8, 24, 40])
    assert sorted({round(x, 6) for x in local[2]}) == pytest.approx(sorted(keyframes.SAMPLE_DEPTHS))
    np.testing.assert_allclose(both.distances[0], np.linalg.norm(local, axis=0))
    np.testing.assert_array_equal(both.points[1], keyframes.Targets.of([wide]).points[0])


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
    views = [camera(T) for T in (at(), at(0.6), at(yaw=40), at(0.3, yaw=20), at(10, yaw=180))]
    near = closeness([target, camera(at(0.6))], views)
    np.testing.assert_allclose(near[:4, 0], np.exp([0, -1, -1, -1]))
    assert near.shape == (5, 2) and near[1, 1] == 1 and near[4].max() < 1e-6
    # Two views from farther back see what the target sees no worse than one beside it; the one beside is better.
    views = [camera(at(z=-1.5)), camera(at(0.05, z=-1.5)), camera(at(0.2, yaw=3))]
    assert 2 in select([target], views, 2)
    # Where nothing is seen, the nearest pose counts.
    blind = [camera(at(z=5, yaw=180)), camera(at(z=0.5, yaw=180)), camera(at(z=9, yaw=180))]
    assert visibilities([target], blind).max() == 0 and select([target], blind, 1) == [1]


def greedy(seen, near, max_views):
    """What `select` is to do, as its description says it."""
    flat = seen.reshape(len(seen), -1).astype(np.float64)
    own, best, chosen = 0.1 * (flat.sum(1) + seen.shape[2] * near.sum(1)), np.zeros(flat.shape[1]), []
    for _ in range(max_views):
        gains = {i: np.maximum(flat[i] - best, 0).sum() + own[i] for i in range(len(flat)) if i not in chosen}
        chosen.append(max(gains, key=gains.get))
        best = np.maximum(best, flat[chosen[-1]])
    return chosen


@pytest.mark.parametrize("count", [1, 8])
def test_selection_takes_the_best_at_every_step(count):
    rng = np.random.default_rng(5)
    for _ in range(10):
        targets, views = anywhere(rng, count, 3), anywhere(rng, 40, 3)
        expected = greedy(visibilities(targets, views), closeness(targets, views), 10)
        assert select(targets, views, 10) == expected
        assert select(targets, views, 3) == expected[:3]
    assert select(targets, views[:4] * 2, 8)[0] < 4, "of equal views the first"
    assert sorted(select(targets, views, 99)) == list(range(40))


@pytest.mark.parametrize("count, extent, turn", [(1, 9, 9), (8, 20, 360), (8, 1, 9), (8, 6, 0), (8, 0, 90)])
def test_thousands_of_views_are_searched_as_if_each_was_looked_at(count, extent, turn):
    """Near each other, targets rule most views out at once; far apart they do not. Nothing may depend on that."""
    rng = np.random.default_rng(6)
    places = rng.uniform(0, (extent, extent / 20, extent, turn), (count, 4))
    wanted = [at(8 + x, y, 8 + z, yaw) for x, y, z, yaw in places]
    targets = keyframes.Targets.of([camera(T) for T in wanted])
    views = keyframes.Views.of(anywhere(rng, keyframes.MANY + 100, 20))
    cost = np.array([
        np.linalg.norm(views.T_world_cam[:, :3, 3] - T[:3, 3], axis=1) / 2 - 2 * views.T_world_cam[:, :3, 2] @ T[:3, 2]
        for T in wanted
    ])  # fmt: skip
    best, share = cost.min(axis=0), 32 // (2 * count) if count > 1 else 0
    best[np.argsort(cost, axis=1)[:, :share]] = -9
    expected = np.sort(np.argsort(best)[:32])
    np.testing.assert_array_equal(keyframes.shortlist(targets, views, 32), expected)


def test_what_is_remembered_of_a_neighbourhood_is_what_would_be_found():
    """A camera that walks among thousands of views, to which some are added."""
    rng = np.random.default_rng(8)
    stored = anywhere(rng, keyframes.MANY + 1000, 20)
    near, searches = keyframes.Neighbourhood(), 0
    search = near._search

    def counted(*args):
        nonlocal searches
        searches += 1
        search(*args)

    near._search = counted
    for step in range(60):
        views = keyframes.Views.of(stored[: keyframes.MANY + 10 * step])
        wanted = [camera(at(8 + 0.05 * step, 0, 9, 40 + step))] * (1 + step % 3)
        targets = keyframes.Targets.of([*wanted, camera(at(8.1 + 0.05 * step, 0, 9, 40 + step))])
        remembered = keyframes.Views(views.T_world_cam, views.numbers, near)
        np.testing.assert_array_equal(
            keyframes.shortlist(targets, remembered, 32), keyframes.shortlist(targets, views, 32)
        )
    assert 5 < searches < 50


def test_the_first_of_equal_views_is_used_however_many_there_are():
    views = keyframes.Views.of([camera(at(9))] * 5 + [camera(at())] * 500)
    assert shortlist([camera(at())], views, 12) == list(range(5, 17))
    assert shortlist([camera(at()), camera(at())], views, 12) == list(range(5, 17))
    targets = keyframes.Targets.of([camera(at())])
    assert keyframes.most_useful(targets, views, 3).tolist() == [5, 6, 7]


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
    views = keyframes.Views.of([camera(T) for T in far + near])
    rows = shortlist([camera(at()), camera(at(100, yaw=90))], views, 12)
    assert len(rows) == 12 and set(range(500, 506)) <= set(rows)
    assert rows == sorted(rows)
    assert shortlist([camera(at())], keyframes.Views.of([camera(T) for T in far[:5]]), 12) == [0, 1, 2, 3, 4]


def test_shortlist_shares_out_half_of_its_places():
    """What is best for the one target is better than all that there is for the other, but does not take it all."""
    near, far = [at(0.01 * i) for i in range(100)], [at(500 + 8 + i) for i in range(50)]
    views = keyframes.Views.of([camera(T) for T in near + far])
    rows = shortlist([camera(at()), camera(at(500))], views, 16)
    assert rows == [*range(12), *range(100, 104)]


def test_as_many_views_as_are_wanted_are_used():
    rng = np.random.default_rng(2)
    views, targets = keyframes.Views.of(anywhere(rng, 200, 5)), keyframes.Targets.of(anywhere(rng, 2, 5))
    for max_views in (1, 8, 20, 64, 100, 200, 300):
        rows = keyframes.most_useful(targets, views, max_views)
        assert len(set(rows)) == min(max_views, 200) and (np.diff(rows) > 0).all()


def test_places_out_of_this_world_do_no_harm():
    """Tracking may fail in any way that Camera accepts; the numbers are finite, and that is all that is asked."""
    rng = np.random.default_rng(4)
    lost = [camera(at(x)) for x in (1e9, -5e9, 7e9, 1e10)]
    cameras = anywhere(rng, 40, 5) + lost
    views = keyframes.Views.of(cameras)
    here = keyframes.Targets.of(cameras[:1])
    assert keyframes.most_useful(here, views, 4).max() < 40
    for targets in (keyframes.Targets.of(lost), keyframes.Targets.of([*lost, cameras[0]])):
        seen = keyframes.visibilities(targets, views)
        assert np.isfinite(seen).all() and np.isfinite(keyframes.closeness(targets, views)).all()
        assert len(set(keyframes.most_useful(targets, views, 8).tolist())) == 8
