"""Streams, staging and graphs: the parts that a device without CUDA goes through as well."""

import os

import numpy as np
import pytest
import torch

from elvsm_core.cuda import ops
from elvsm_core.cuda.graphs import Graphs, InputRing, Lane

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else ["cpu"]
INTERPRETED = bool(os.environ.get("TRITON_INTERPRET"))


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)


@pytest.fixture(params=["copied", pytest.param("received", marks=pytest.mark.gpu)])
def inputs_of(request, monkeypatch, device):
    """What makes Inputs, whose numbers are copied when they are sent, or received by Triton's kernels."""
    if request.param == "copied":
        monkeypatch.setattr(ops, "kernels_for", lambda x: None)
    elif INTERPRETED:
        monkeypatch.setattr(ops, "kernels_for", lambda x: ops._triton())
    elif device.type == "cpu" or ops._triton() is None:
        pytest.skip("needs a CUDA device, or Triton and TRITON_INTERPRET=1")
    return InputRing


def finish(lane):
    if lane.stream is not None:
        lane.stream.synchronize()


def test_numbers_and_images_arrive_together(inputs_of, device):
    """Five floats, three integers, two images, or some of them."""
    lane = Lane(device)
    inputs = inputs_of(5, 3, lane, device, images=(2, 3, 5, 3))
    picture = torch.arange(45, dtype=torch.uint8).view(3, 5, 3)
    for n in (3, 1, 2, 3, 2, 1):
        with lane, inputs:
            inputs.send(np.arange(2 * n, dtype=np.float32)[:5], [n] * n, [picture + i for i in range(n)][:2])
            inputs.receive(2)
            inputs.mark(lane.record())
        finish(lane)
        assert inputs.floats.tolist()[: 2 * n] == list(range(2 * n))[:5]
        assert inputs.ints.tolist()[:n] == [n] * n
        for i in range(min(n, 2)):
            assert torch.equal(inputs.images[i].cpu(), picture + i)
    assert inputs.ints.data_ptr() % 16 == inputs.images.data_ptr() % 16 == 0


def test_images_that_are_on_the_device_stay_when_numbers_arrive(inputs_of, device):
    lane = Lane(device)
    inputs = inputs_of(1, 1, lane, device, images=(1, 2, 2, 3))
    lane.follow()
    with lane, inputs:
        inputs.send(np.ones(1, np.float32), [1], [torch.full((2, 2, 3), 7, dtype=torch.uint8)])
        inputs.receive(1)
        inputs.send(np.full(1, 2, np.float32), [2])
        inputs.images[0].fill_(9)
        inputs.receive(1)
        inputs.receive(1)  # nothing new
    finish(lane)
    assert inputs.floats.tolist() == [2] and inputs.ints.tolist() == [2]
    assert (inputs.images == 9).all()


def test_many_copies_in_a_row_all_arrive(inputs_of, device):
    """Also without `mark`, more of them than there are buffers."""
    lane = Lane(device)
    inputs, seen = inputs_of(1000, 1, lane, device, buffers=2), []
    lane.follow()
    with lane, inputs:
        for value in range(50):
            inputs.send(np.full(1000, value, dtype=np.float32), [])
            inputs.receive()
            seen.append(inputs.floats.clone())
            if value % 3 == 0:
                inputs.mark(lane.record())
    finish(lane)
    assert [float(x.min()) for x in seen] == [float(x.max()) for x in seen] == list(range(50))


def test_what_a_function_could_not_be_run_with_is_not_for_the_next_one(inputs_of, device):
    lane = Lane(device)
    inputs = inputs_of(1, 1, lane, device)
    lane.follow()
    with pytest.raises(RuntimeError, match="no memory"), lane, inputs:
        inputs.send(np.ones(1, np.float32), [1])
        raise RuntimeError("no memory")
    with lane, inputs:
        inputs.send(np.full(1, 2, np.float32), [2])
        inputs.receive()
    finish(lane)
    assert inputs.floats.tolist() == [2]


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
