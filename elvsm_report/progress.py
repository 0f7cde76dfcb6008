"""Progress on a terminal; nothing where there is none, so that logs stay logs."""

from __future__ import annotations

import sys
from typing import Any


class TrainingBar:
    """A line that says how far a training is, below what it prints. `start` does nothing without a terminal."""

    def __init__(self) -> None:
        self.progress: Any = None

    def start(self) -> None:
        """Show the bar, if standard error is a terminal."""
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self.progress = Progress(
            BarColumn(), TaskProgressColumn("{task.percentage:.1f} %"), TextColumn("{task.description}"),
            TimeElapsedColumn(), TextColumn("left"), Remaining(), console=Console(stderr=True),
        )  # fmt: skip
        self.task = self.progress.add_task("", total=1.0)
        self.progress.start()

    def update(self, share: float, words: str) -> None:
        """Show how much of the run is over, in [0, 1], and a few words."""
        if self.progress is not None:
            self.progress.update(self.task, completed=share, description=words)

    def line(self, text: str) -> bool:
        """Print above the bar; returns False where there is no bar and somebody else has to."""
        if self.progress is None:
            return False
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        return True

    def stop(self) -> None:
        """Take the bar away. May be called twice."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
