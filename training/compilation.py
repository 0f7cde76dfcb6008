"""Small functions of the trainer, compiled on a GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.fx.experimental._config


@functools.cache
def fused(function: Callable[..., Any], cuda: bool) -> Callable[..., Any]:
    """Return the function, compiled once for all shapes where it runs on a GPU."""
    if not cuda:
        return function
    compiled = torch.compile(function, dynamic=True)

    def call(*args: Any) -> Any:
        # Sides that happen to be equal at first need not be so later, and each such guess costs a compilation.
        with torch.fx.experimental._config.patch(use_duck_shape=False):
            return compiled(*args)

    return call
