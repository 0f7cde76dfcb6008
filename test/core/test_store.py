import numpy as np
import pytest
import torch

import elvsm_core as ec
from elvsm_core import keyframes
from elvsm_core.store import ANGLE, DISTANCE, KeyframeStore


def keyframe(position, yaw=0.0):
    c, s = np.cos(yaw), np.sin(yaw)
    T = np.eye(4)
    T[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    T[:3, 3] = position
    return ec.Keyframe(torch.zeros(8, 8, 3).byte(), ec.Camera(8 + position[0], 8, 4, 4, 8, 8, T), None)


def redundant_by_definition(store, protect):
    """The older one of the closest pair among those that are not protected, by looking at all pairs."""
    poses, best = store.poses, (np.inf, 0)
    for i in range(len(store) - protect):
        newer = keyframes.difference(poses[i], poses[i + 1 :], DISTANCE, ANGLE)
        best = min(best, (newer.min(), i) if len(newer) else best)
    return int(store.ids[best[1]])


def test_eviction_takes_the_older_of_the_closest_pair_and_spares_the_newest():
    store = KeyframeStore()
    for i, x in enumerate([0, 1.0, 1.01, 2.0, 3.0, 3.001]):
        store.add(10 * i, keyframe([x, 0, 0]))
    assert store.most_redundant(protect=2) == 10
    assert store.most_redundant(protect=1) == 40
    assert store.most_redundant(protect=6) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 700])
def test_a_store_of_many_is_that_of_one_by_one(count):
    rng, store = np.random.default_rng(count), KeyframeStore()
    views = {3 * i: keyframe(rng.normal(size=3), rng.uniform(0, 6)) for i in range(count)}
    if count > 20:
        views[30] = views[15]  # a keyframe twice
    for view, one in views.items():
        store.add(view, one)
    at_once = KeyframeStore.of(views)
    newest = keyframe([9, 9, 9])
    for kept in (store, at_once):
        kept.add(10_000, newest)
    assert at_once.items() == store.items() and at_once.ids.tolist() == store.ids.tolist()
    np.testing.assert_array_equal(at_once.poses, store.poses)
    np.testing.assert_allclose(at_once.views.numbers, store.views.numbers, rtol=0, atol=1e-12)
    while len(store) > 9:
        evicted = store.most_redundant()
        assert at_once.most_redundant() == evicted
        store.remove(evicted)
        at_once.remove(evicted)


def test_what_is_remembered_of_a_place_follows_changes(monkeypatch):
    monkeypatch.setattr(keyframes, "MANY", 40)
    rng, store = np.random.default_rng(5), KeyframeStore()
    for i in range(60):
        store.add(i, keyframe(rng.normal(size=3), rng.uniform(0, 6)))
    targets = keyframes.Targets.of([keyframe([0, 0, 0]).camera])

    def check():
        views = store.views
        alone = keyframes.Views(views.T_world_cam, views.numbers)
        best = keyframes.shortlist(targets, views, 4)
        np.testing.assert_array_equal(best, keyframes.shortlist(targets, alone, 4))
        return store.ids[best].tolist()

    first = check()
    store.remove(first[0])
    assert first[0] not in check()
    other = next(view for view in store if view not in check())
    store.update(other, keyframe([0, 0, 0]))
    assert other in check()
    store.add(99, keyframe([0, 0, 0]))
    assert 99 in check()


def test_arrays_and_redundancy_follow_any_sequence_of_changes():
    rng = np.random.default_rng(4)
    store, mirror, next_id = KeyframeStore(), {}, 0
    for step in range(600):
        action = rng.choice(["add", "add", "add", "remove", "update"]) if len(mirror) > 9 else "add"
        new = keyframe(rng.normal(size=3), rng.uniform(0, 6))
        if action == "add":
            store.add(next_id, new)
            mirror[next_id] = new
            next_id += 1
        else:
            view = int(rng.choice(list(mirror)))
            if action == "remove":
                store.remove(view)
                del mirror[view]
            else:
                store.update(view, new)
                mirror[view] = new
        assert store.ids.tolist() == list(mirror) and len(store) == len(mirror)
        if step % 20 == 0:
            np.testing.assert_array_equal(store.poses, [k.camera.T_world_cam for k in mirror.values()])
            expected = keyframes.Views.of([k.camera for k in mirror.values()])
            np.testing.assert_array_equal(store.views.numbers, expected.numbers)
            np.testing.assert_array_equal(store.views.T_world_cam, expected.T_world_cam)
            assert store.items() == mirror
            if len(store) > 8:
                assert store.most_redundant(protect=4) == redundant_by_definition(store, 4)
    store.clear()
    assert len(store) == 0 and store.poses.shape == (0, 4, 4)


def test_many_moved_at_once_are_as_if_moved_one_by_one():
    rng, one_by_one, at_once = np.random.default_rng(6), KeyframeStore(), KeyframeStore()
    for i in range(60):
        for store in (one_by_one, at_once):
            store.add(3 * i, keyframe(np.array([0.1 * i, 0, 0])))
    moved = {3 * i: keyframe(rng.normal(size=3), rng.uniform(0, 6)) for i in range(0, 60, 2)}
    with pytest.raises(KeyError):
        at_once.update_many({**moved, 1: moved[0]})
    at_once.update_many(moved)
    for view, new in moved.items():
        one_by_one.update(view, new)
    np.testing.assert_array_equal(at_once.poses, one_by_one.poses)
    np.testing.assert_array_equal(at_once.views.numbers, one_by_one.views.numbers)
    for _ in range(50):
        assert at_once.most_redundant() == one_by_one.most_redundant() == redundant_by_definition(at_once, 8)
        view = at_once.most_redundant()
        at_once.remove(view)
        one_by_one.remove(view)


def test_unknown_ids_change_nothing():
    store = KeyframeStore()
    store.add(3, keyframe([0, 0, 0]))
    for change in (lambda: store.remove(4), lambda: store.update(2, keyframe([1, 0, 0]))):
        with pytest.raises(KeyError):
            change()
    assert store.ids.tolist() == [3]
