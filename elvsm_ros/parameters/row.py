"""One row of the table of parameters: what a parameter is, which values are good, and how ROS is told."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

Value = bool | int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]


class ParameterError(ValueError):
    """A parameter value that the node cannot work with."""


def parameter(
    default: Value,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
    repeats: bool = False,
    at_start: bool = False,
) -> Any:
    """Return the dataclass field of a parameter; what its arguments mean is said at `ParameterRow`."""
    metadata = {
        "description": description, "low": low, "high": high, "choices": choices, "live": live,
        "repeats": repeats, "at_start": at_start,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class ParameterRow:
    """One parameter: live ones change at run time, others only while the node is unconfigured.

    `low` and `high` are inclusive and hold for every number of an array; None: any value of the type.
    """

    name: str
    default: Value
    description: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    live: bool
    repeats: bool = False  # an array may be as long as several of the default
    at_start: bool = False  # whoever starts the node sets it, and nobody else

    @property
    def constraints(self) -> str:
        """Say in words which values are good."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.low is None or self.high is None:
            return ""
        each = f"{len(self.default)} numbers " if isinstance(self.default, tuple) else ""
        each = each and (f"{each.rstrip()}, or several times as many, " if self.repeats else each)
        return f"{each}from {self.low:.12g} to {self.high:.12g}"

    @property
    def meaning(self) -> str:
        """Say in sentences what it is and which values are good."""
        limits = self.constraints
        return self.description + (f" {limits[0].upper()}{limits[1:]}." if limits else "")

    @property
    def _when(self) -> str:
        if self.at_start:
            return "only at start"
        return "" if self.live else "only while unconfigured"

    def check(self, value: Any) -> None:
        """Raise ParameterError unless the value has the right type and is within bounds."""
        wanted = type(self.default)
        if type(value) is not wanted:
            raise ParameterError(f"{self.name} must be of type {wanted.__name__}, got {value!r}")
        if self.choices and value not in self.choices:
            raise ParameterError(
                f"{self.name} must be {self.constraints}, got {value!r}{perhaps(str(value), self.choices)}"
            )
        strings = isinstance(self.default, tuple) and isinstance(self.default[0], str)
        if strings and not (value and all(isinstance(part, str) for part in value)):
            raise ParameterError(f"{self.name} must hold strings, at least one, got {list(value)}")
        if self.low is None or self.high is None:
            return
        numbers = value if isinstance(value, tuple) else (value,)
        if isinstance(self.default, tuple):
            whole_numbers = isinstance(self.default[0], int)
            kinds = int if whole_numbers else (int, float)
            if not all(isinstance(number, kinds) and not isinstance(number, bool) for number in numbers):
                words = "whole numbers" if whole_numbers else "numbers"
                raise ParameterError(f"{self.name} must hold {words}, got {list(numbers)}")
            whole = len(numbers) % len(self.default) == 0 and len(numbers) > 0
            if not whole or (len(numbers) > len(self.default) and not self.repeats):
                raise ParameterError(f"{self.name} must be {self.constraints}, got {list(numbers)}")
        if not all(self.low <= number <= self.high for number in numbers):  # NaN is not within bounds either
            raise ParameterError(f"{self.name} must be {self.constraints}, got {value!r}")

    def descriptor(self) -> ParameterDescriptor:
        """Return what ROS tools show and enforce."""
        descriptor = ParameterDescriptor(
            name=self.name,
            description=self.description,
            additional_constraints="; ".join(part for part in (self.constraints, self._when) if part),
            read_only=self.at_start,
        )
        # bool is an int to isinstance; arrays have no ranges in ROS.
        if self.low is not None and self.high is not None:
            if type(self.default) is int:
                descriptor.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high))]
            elif type(self.default) is float:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=self.low, to_value=self.high)
                ]
        return descriptor


def perhaps(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ": 'x' perhaps?" with the nearest known name, or nothing if none is as near as `cutoff` (0 to 1)."""
    near = difflib.get_close_matches(name, list(known), 1, cutoff)
    return f": {near[0]!r} perhaps?" if near else ""
