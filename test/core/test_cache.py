import pytest
import torch

import elvsm_core as ec


def view(value, layers=2):
    return [
        (torch.full((1, 3, 2, 4), value + layer), torch.full((1, 3, 2, 4), -value)) for layer in range(layers)
    ]


@pytest.fixture
def cache():
    return ec.ViewCache(layers=2, capacity=4, tokens=3, heads=2, head_dim=4)


def test_slots_are_written_in_place_and_selected_in_order(cache):
    storage = cache.select([0])[0][0].untyped_storage().data_ptr()
    slots = [cache.insert(view(float(i))) for i in range(4)]
    assert slots == [0, 1, 2, 3] and cache.free == 0
    for order in ([0, 1, 2, 3], [1, 2], [3, 0], [2]):
        for layer, (k, v) in enumerate(cache.select(order)):
            assert k.shape == (1, 3 * len(order), 2, 4)
            assert k[0, ::3, 0, 0].tolist() == [i + layer for i in order]
            assert v[0, ::3, 0, 0].tolist() == [-i for i in order]
    assert cache.select([1, 2])[1][0].untyped_storage().data_ptr() == storage, "neighbours need no copy"


def test_a_full_cache_says_so_and_keeps_its_views(cache):
    for i in range(4):
        cache.insert(view(float(i)))
    with pytest.raises(ec.CacheFullError, match="all 4 slots"):
        cache.insert(view(9.0))
    cache.evict(2)
    assert cache.insert(view(7.0)) == 2
    assert cache.select([2])[0][0].max() == 7
    cache.replace(0, view(5.0))
    assert cache.select([0])[1][0].max() == 6


def test_freeing_twice_is_an_error(cache):
    slot = cache.insert(view(1.0))
    cache.evict(slot)
    for bad in (slot, 99, -1):
        with pytest.raises(ValueError, match="holds no view"):
            cache.evict(bad)


def test_a_view_of_another_depth_changes_nothing(cache):
    with pytest.raises(ValueError, match="expected 2 layers"):
        cache.insert(view(1.0, layers=3))
    assert cache.free == 4


def test_memory_is_what_was_asked_for(cache):
    assert cache.nbytes == 2 * 2 * 4 * 3 * 2 * 4 * 4
    with pytest.raises(ValueError, match="capacity"):
        ec.ViewCache(layers=2, capacity=0, tokens=3, heads=2, head_dim=4)
