"""Muon for the blocks' matrices, AdamW for the rest, over one flat gradient buffer; the schedule follows the clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .settings import OptimSettings


class FlatGradients:
    """One contiguous buffer that all gradients are views of: one all-reduce, one norm, one fill per step."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        total = sum(p.numel() for p in self.parameters)
        self.buffer = torch.zeros(total, device=self.parameters[0].device)
        offset = 0
        for p in self.parameters:
            p.grad = self.buffer[offset : offset + p.numel()].view_as(p)
            offset += p.numel()

    def zero(self) -> None:
        """Set all gradients to zero."""
        self.buffer.zero_()

    def average(self) -> None:
        """Average over all ranks."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self.buffer)
            self.buffer.div_(dist.get_world_size())

    def clip(
        self, largest: float, skip: float, loss: Tensor | None = None, repair: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Scale to a norm of at most `largest`; drop gradients that are not finite or longer than skip * largest.

        loss: a scalar, the same on all ranks; gradients of one that is not finite are dropped. repair: NaN becomes 0,
        infinity 1e-6 before. Returns the norm before, and 1.0 if the gradients were dropped, as tensors: nothing waits
        for the device.
        """
        if repair:
            self.buffer.nan_to_num_(0.0, 1e-6, -1e-6)
        norm = self.buffer.norm()
        good = torch.isfinite(norm) & (norm <= largest * skip)
        if loss is not None:
            good = good & torch.isfinite(loss)
        factor = torch.where(good, (largest / (norm + 1e-6)).clamp(max=1.0), 0.0)
        self.buffer.mul_(factor)
        self.buffer.nan_to_num_(0.0, 0.0, 0.0)  # 0 * NaN is NaN
        return norm, (~good).float()


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of matrices g [n, rows, columns] near 1 (Newton-Schulz, Muon's quintic)."""
    x = g.bfloat16() if g.is_cuda else g.float()  # CPUs are slow in bfloat16
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        b = -4.7750 * a + 2.0315 * (a @ a)
        x = 3.4445 * x + b @ x
    return x.mT if tall else x


class Muon:
    """Momentum with orthogonalised updates (Jordan et al. 2024), for matrices of equal shape together.

    A fused matrix (q, k, v in one) is orthogonalised part by part. The update is scaled by
    0.2 sqrt(max(rows, columns)), which gives it AdamW's typical size, so that both take the same learning rate.
    """

    def __init__(
        self, parameters: list[nn.Parameter], width: int, momentum: float, weight_decay: float
    ) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay
        groups: dict[tuple[int, int], list[Tensor]] = {}
        for p in parameters:
            fused = p.shape[1] == width and p.shape[0] in (2 * width, 3 * width)
            for part in p.data.split(width) if fused else (p.data,):
                groups.setdefault((part.shape[0], part.shape[1]), []).append(part)
        sources = {p.data.data_ptr(): p for p in parameters}
        assert len(sources) == len(parameters)
        self.groups = list(groups.values())
        self.gradients: list[list[Tensor]] = [[] for _ in self.groups]
        lookup: dict[int, Tensor] = {}
        for p in parameters:
            assert p.grad is not None, "make FlatGradients first"
            fused = p.shape[1] == width and p.shape[0] in (2 * width, 3 * width)
            parts = p.data.split(width) if fused else (p.data,)
            grads = p.grad.split(width) if fused else (p.grad,)
            for part, grad in zip(parts, grads, strict=True):
                lookup[part.data_ptr()] = grad
        self.gradients = [[lookup[part.data_ptr()] for part in group] for group in self.groups]
        self.momenta = [torch.zeros(len(g), *g[0].shape, device=g[0].device) for g in self.groups]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Change the weights by their gradients. lr: learning rate."""
        for weights, gradients, momentum in zip(self.groups, self.gradients, self.momenta, strict=True):
            g = torch.stack(gradients)
            momentum.lerp_(g, 1 - self.momentum)
            update = orthogonalise(g.lerp(momentum, self.momentum)).float()
            update *= 0.2 * math.sqrt(max(update.shape[1:]))
            torch._foreach_mul_(weights, 1 - lr * self.weight_decay)
            torch._foreach_add_(weights, list(update.unbind(0)), alpha=-lr)


class Optimiser:
    """The optimiser of a model by settings; its gradients live in `gradients`."""

    def __init__(
        self, model: nn.Module, width: int, settings: OptimSettings, extra: nn.Module | None = None
    ) -> None:
        """extra: a further module to train, by AdamW, with the same rate and weight decay."""
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        if extra is not None:
            named += [(f"extra.{n}", p) for n, p in extra.named_parameters()]
        self.gradients = FlatGradients(p for _, p in named)
        matrices = [p for n, p in named if "_blocks." in n and p.ndim == 2] if settings.name == "muon" else []
        chosen = {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in chosen]
        self.muon = Muon(matrices, width, settings.momentum, settings.weight_decay) if matrices else None
        self.adamw = torch.optim.AdamW(
            [
                {"params": [p for p in rest if p.ndim >= 2], "weight_decay": settings.weight_decay},
                {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=settings.lr,
            betas=settings.betas,
            fused=rest[0].device.type == "cuda",
        )

    def step(self, lr: float) -> None:
        """Change all weights by their gradients. lr: learning rate of both optimisers."""
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self.adamw.step()
        if self.muon is not None:
            self.muon.step(lr)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on beside weights and gradients."""
        momenta = self.muon.momenta if self.muon is not None else []
        return {"adamw": self.adamw.state_dict(), "muon": list(momenta)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what state_dict of an optimiser of the same model and settings returned."""
        self.adamw.load_state_dict(state["adamw"])
        for mine, saved in zip(self.muon.momenta if self.muon else [], state["muon"], strict=True):
            mine.copy_(saved)


def learning_rate(settings: OptimSettings, step: int, progress: float, steps: int = 0) -> float:
    """Return the rate for a step: linear warm-up by steps, then by settings.schedule.

    progress: share of the run that is over, in [0, 1], for "trapezoid"; steps: of the whole run, for "cosine" and
    "linear".
    """
    warm = min(1.0, (step + 1) / max(settings.warmup, 1))
    if settings.schedule == "constant":
        return settings.lr * warm
    if settings.schedule in ("cosine", "linear"):
        share = min(1.0, max(0.0, (step - settings.warmup) / max(1, steps - settings.warmup)))
        fall = 1.0 - share if settings.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * share))
        return settings.lr * warm * fall
    left = max(0.0, 1.0 - progress)
    return settings.lr * warm * min(1.0, left / settings.decay if settings.decay > 0 else 1.0)
