"""What a soak measured: samples of a node's memory, answers, and whether the node stayed as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the node is held to: MB a minute of memory, and the share of the service rate that must be left."""

    slope: float = 1.0
    rate: float = 0.8


@dataclasses.dataclass
class Sample:
    """A look at the node. seconds: since the start; rss, device: MB; the rest is from ~/status."""

    seconds: float
    rss: float
    device: float
    threads: int
    keyframes: int = 0
    images_received: int = 0
    images_dropped: int = 0
    images_rejected: int = 0
    queue: int = 0
    render_ms: float = float("nan")


@dataclasses.dataclass
class Run:
    """What came of one node. Times in `answered` are seconds since the start."""

    transport: str
    seconds: float
    warm_up: float
    samples: list[Sample]
    answered: list[tuple[float, float]]
    errors: list[str]
    warnings: int
    sent: int

    def slope(self, what: str) -> float:
        """Return how fast a kind of memory grows after the warm-up, MB a minute, by Theil and Sen."""
        from scipy.stats import theilslopes

        rows = [(s.seconds / 60, getattr(s, what)) for s in self.samples if s.seconds >= self.warm_up]
        if len(rows) < 3:
            return float("nan")
        minutes, values = np.array(rows).T
        return float(theilslopes(values, minutes)[0])

    def rates(self) -> list[float]:
        """Return the answers per second of each whole minute (or quarter of a short run) after the warm-up."""
        step = min(60.0, (self.seconds - self.warm_up) / 4)
        edges = np.arange(self.warm_up, self.seconds + 1e-6, step)
        counts, _ = np.histogram([at for at, _ in self.answered], edges)
        return [float(count / step) for count in counts]

    def verdicts(self, limits: Limits) -> dict[str, tuple[bool, str]]:
        """Return, for each figure, whether it is reached, and what it is."""
        rates = self.rates()
        first, last = (
            np.median(rates[: max(1, len(rates) // 3)]),
            np.median(rates[-max(1, len(rates) // 3) :]),
        )
        rss, device = self.slope("rss"), self.slope("device")
        end = self.samples[-1]
        # Best effort loses images, and now and then a pose, where the machine is too busy: told, and no error.
        lost = self.sent - end.images_received
        return {
            "memory": (rss <= limits.slope, f"{rss:+.2f} MB/min at {end.rss:.0f} MB"),
            "device memory": (device <= limits.slope, f"{device:+.2f} MB/min at {end.device:.0f} MB"),
            "service rate": (
                bool(last >= limits.rate * first), f"{first:.2f}/s in the first third, {last:.2f}/s in the last"
            ),
            "errors": (not self.errors, f"{len(self.errors)}" + (f": {self.errors[0]}" if self.errors else "")),
            "images": (
                end.images_received > 0.5 * self.sent and end.images_rejected <= 0.01 * self.sent,
                f"{self.sent} sent, {lost} lost on the way, {end.images_dropped} dropped, {end.images_rejected} "
                f"refused, {end.keyframes} keyframes",
            ),
        }  # fmt: skip


def plot(runs: list[Run], path: Path) -> None:
    """Draw memory and answers over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2, len(runs), figsize=(6 * len(runs), 6), squeeze=False, layout="constrained"
    )
    for column, one in zip(axes.T, runs, strict=True):
        column[0].plot([s.seconds / 60 for s in one.samples], [s.rss for s in one.samples])
        column[0].set(title=one.transport, ylabel="resident memory, MB", ylim=(0, None))
        column[1].plot(
            [at / 60 for at, _ in one.answered], [1e3 * took for _, took in one.answered], ".", ms=2
        )
        column[1].set(xlabel="minutes", ylabel="time to the answer, ms", yscale="log")
        for axis in column:
            axis.axvline(one.warm_up / 60, color="grey", lw=0.5)
    figure.savefig(path, dpi=120)
