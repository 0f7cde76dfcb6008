"""Streams, staging and graphs: the parts that a device without CUDA goes through as well."""

import numpy as np
import pytest
import torch

from elvsm_core.graphs import Graphs, Inputs, Lane

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)


def test_numbers_and_images_arrive_together(device):
    """Five floats, three integers, two images; numbers that are not named are zero, whatever was there before."""
    lane = Lane(device)
    inputs = Inputs(5, 3, lane, device, images=(2, 3, 5, 3))
    picture = torch.arange(45, dtype=torch.uint8).view(3, 5, 3)
    for n in (3, 1, 2):
        with lane:
            inputs.send(np.arange(2 * n, dtype=np.float32)[:5], [n] * n, [picture + i for i in range(n)][:2])
        if lane.stream is not None:
            lane.stream.synchronize()
        floats = list(range(2 * n))[:5]
        assert inputs.floats.tolist() == floats + [0] * (5 - len(floats))
        assert inputs.ints.tolist() == [n] * n + [0] * (3 - n)
        for i in range(min(n, 2)):
            assert torch.equal(inputs.images[i].cpu(), picture + i)
    assert inputs.ints.data_ptr() % 16 == inputs.images.data_ptr() % 16 == 0


def test_many_copies_in_a_row_all_arrive(device):
    lane = Lane(device)
    inputs, seen = Inputs(1000, 1, lane, device, buffers=2), []
    lane.follow()
    with lane:
        for value in range(50):
            inputs.send(np.full(1000, value, dtype=np.float32), [])
            seen.append(inputs.floats.clone())
    event = lane.record()
    if event is not None:
        event.synchronize()
    assert [float(x.min()) for x in seen] == [float(x.max()) for x in seen] == list(range(50))


def test_graphs_run_what_was_captured_and_what_was_not(device):
    lane = Lane(device)
    source, graphs = torch.zeros(4, device=device), Graphs(lane)

    def double():
        return 2 * source

    graphs.capture("double", double)
    results = []
    for value in (3.0, 5.0):
        source.fill_(value)
        lane.follow()
        with lane:
            results += [graphs.run("double", double).clone(), graphs.run("add", lambda: source + 1).clone()]
        if lane.stream is not None:
            lane.stream.synchronize()
    assert [float(x[0]) for x in results] == [6, 4, 10, 6]
    if device.type == "cuda":
        assert (len(graphs), graphs.missing) == (1, 1)
        assert graphs.capture_missing(1) == 0 and len(graphs) == 2
    graphs.clear()
    assert len(graphs) == graphs.missing == 0
