"""What of an answer a page shows: the picture, with detail or without, its depth or its confidence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from elvsm_ros import RenderedViews
from elvsm_ros.conversions import RGB

NODE, NETWORK, DETAIL, DEPTH, CONFIDENCE = (
    "As the node renders", "Network alone", "With detail", "Depth", "Confidence",
)  # fmt: skip
LAYERS = (NODE, NETWORK, DETAIL, DEPTH, CONFIDENCE)


def options(layer: str) -> dict[str, Any]:
    """Return the arguments of `SceneClient.render_views` for a layer."""
    return {
        NETWORK: {"detail": False}, DETAIL: {"detail": True}, DEPTH: {"depth": True}, CONFIDENCE: {"depth": True},
    }.get(layer, {})  # fmt: skip


def picture(layer: str, answer: RenderedViews) -> RGB:
    """Return what an answer of one view shows, uint8 RGB [H, W, 3]. Depth: the nearer, the brighter."""
    if layer == DEPTH:
        return _grey(_nearness(answer.depths[0]))
    if layer == CONFIDENCE:
        return _grey(answer.confidences[0])
    return answer.images[0]


def _nearness(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return inverse depths [H, W] from 0 to 1; the nearest and the farthest hundredth of the pixels are cut off."""
    inverse = 1 / np.maximum(depth, 1e-9)
    low, high = np.percentile(inverse, (1, 99))
    return np.clip((inverse - low) / max(high - low, 1e-12), 0, 1)


def _grey(share: NDArray[np.float32]) -> RGB:
    return np.repeat(np.round(share * 255).astype(np.uint8)[..., None], 3, axis=2)
