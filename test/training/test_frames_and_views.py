"""Frame preprocessing and view selection against the published pipeline's own results."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from training.data.frames import c2w_from_w2c, preprocess_frame
from training.sampling.views import ViewSelectionError, evaluation_views, training_views

GOLDEN = Path(__file__).parents[1] / "golden"
FRAMES = load_file(GOLDEN / "golden_data.safetensors")
SELECTION = json.loads((GOLDEN / "golden_view_selection.json").read_text())
CASES = sorted({key.rsplit(".", 1)[0] for key in FRAMES if key.startswith("frames.")})


@pytest.mark.parametrize("case", CASES)
def test_frames_equal_golden(case):
    _, name, size, crop = case.split(".")
    frame = json.loads((GOLDEN / "data" / "frames.json").read_text())[name]
    image = Image.open(GOLDEN / "data" / f"{name}.png")
    pixels, fxfycxcy = preprocess_frame(image, frame["fxfycxcy"], int(size[4:]), square_crop=crop == "crop")
    np.testing.assert_array_equal(pixels, FRAMES[f"{case}.image_u8"][0].numpy())
    np.testing.assert_allclose(fxfycxcy, FRAMES[f"{case}.fxfycxcy"][0].numpy(), rtol=1e-6)
    np.testing.assert_allclose(c2w_from_w2c(frame["w2c"]), FRAMES[f"{case}.c2w"][0].numpy(), atol=1e-6)


def test_grey_and_transparent_frames_become_rgb():
    image = Image.open(GOLDEN / "data" / "a_64x48.png")
    for mode in ("L", "RGBA"):
        pixels, _ = preprocess_frame(image.convert(mode), [57.6, 58.08, 32.3, 23.6], 32)
        assert pixels.shape == (3, 32, 32)


@pytest.mark.parametrize("case", [key for key in SELECTION if key.startswith("inputs=")])
def test_evaluation_views_equal_golden(case):
    inputs, targets = (int(part.split("=")[1]) for part in case.split(","))
    entry = {"context": [10, 45], "target": [14, 30, 41]}
    chosen, asked = evaluation_views(entry, inputs, targets)
    assert chosen + asked == SELECTION[case]["image_indices"]
    assert entry == {"context": [10, 45], "target": [14, 30, 41]}


def test_no_silent_choice_of_other_views():
    with pytest.raises(ViewSelectionError, match="leave it out"):
        evaluation_views(None, 2, 3)
    with pytest.raises(ViewSelectionError, match="lists 2 targets"):
        evaluation_views({"context": [0, 9], "target": [3, 4]}, 2, 3)


def test_training_views_are_drawn_as_published():
    golden = SELECTION["train_view_selector_60_frames"]
    rng, distances = random.Random(0), set()
    for _ in range(4000):
        views = training_views(60, golden["n_views"], rng)
        first, last, *between = views
        assert len(set(views)) == 8 and all(first < frame < last < 60 for frame in between)
        distances.add(last - first)
    assert (min(distances), max(distances)) == (golden["min_dist"], golden["max_dist"])
    assert training_views(26, 8, rng) is None
    assert {training_views(27, 8, rng)[1] - training_views(27, 8, rng)[0] for _ in range(50)} <= {
        24,
        25,
        26,
        27,
    }
    assert training_views(27, 8, rng) is not None
    assert max(last - first for first, last, *_ in (training_views(500, 8, rng) for _ in range(2000))) == 192
