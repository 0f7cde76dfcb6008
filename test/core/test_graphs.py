"""Streams, staging and graphs: the parts that a device without CUDA goes through as well."""

import numpy as np
import pytest
import torch

from elvsm_core.graphs import Graphs, Lane, Parameters, Staging

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)


def test_parameters_arrive_side_by_side(device):
    """Five floats and three integers; what is not named is zero, whatever was there before."""
    parameters = Parameters(5, 3, device)
    for n in (3, 1, 2):
        parameters.set(np.arange(2 * n, dtype=np.float32)[:5], np.full(n, n, dtype=np.int32))
        floats = list(range(2 * n))[:5]
        assert parameters.floats.tolist() == floats + [0] * (5 - len(floats))
        assert parameters.ints.tolist() == [n] * n + [0] * (3 - n)
    assert parameters.ints.data_ptr() % 16 == 0


def test_many_copies_in_a_row_all_arrive(device):
    target, lane = torch.zeros(1000, device=device), Lane(device)
    staging, seen = Staging(target, buffers=2), []
    lane.follow()
    with lane:
        for value in range(50):
            staging.buffer().fill_(value)
            staging.send()
            seen.append(target.clone())
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
