"""How many encoded views a device holds when nobody says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elvsm_core import EfficientLVSM

FEW, MANY = 64, 256
"""As many everywhere; as many at most, where there is room. More are of no use to most scenes."""
SHARE = 0.25
"""Of a GPU's free memory that more than FEW may take: others compute there, too."""


def slots(capacity: int, model: EfficientLVSM, image_size: tuple[int, int]) -> int:
    """Return the number of slots to allocate for a scene of images of (height, width) pixels.

    capacity: the parameter; 0: FEW, or MANY at most as far as a share of the GPU's free memory reaches. Clients that
    look at many places then find views encoded (docs/notebook/serving.md, "Mixed requests").
    """
    if capacity:
        return capacity
    if model.device.type != "cuda":
        return FEW
    import torch

    from elvsm_core.cache import ViewCache

    free, _ = torch.cuda.mem_get_info(model.device)
    config = model.config
    view = ViewCache.view_nbytes(
        config.layers, config.tokens(image_size), config.heads, config.head_dim, model.dtype
    )
    return max(FEW, min(MANY, int(SHARE * free) // view))
