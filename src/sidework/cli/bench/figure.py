"""What a measurement comes to: a figure, beside its raw limit and its goal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal

import msgspec


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """What a figure has to reach: the value itself, or its ratio to the raw limit, at least or at most a bound."""

    of: Literal["value", "ratio"]
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, figure: Figure) -> bool:
        """Whether the figure reaches it; a ratio that was not measured does not."""
        reached = figure.value if self.of == "value" else figure.ratio
        if reached is None:
            return False
        return (self.at_least is None or reached >= self.at_least) and (self.at_most is None or reached <= self.at_most)


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report. `value`, `raw` and `ratio` are medians over the runs."""

    bench: str
    name: str
    unit: str
    value: float
    low: float
    """The smallest of the runs."""
    high: float
    runs: int
    raw: float | None = None
    """What the bare means reach in the same run; see `against`."""
    against: str | None = None
    ratio: float | None = None
    """The median over the runs of value by raw, each pair measured one after the other."""
    goal: Goal | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        return self.goal.is_met(self) if self.goal else None


def figure(
    bench: str,
    name: str,
    unit: str,
    values: Sequence[float],
    *,
    raws: Sequence[float] = (),
    against: str | None = None,
    goal: Goal | None = None,
) -> Figure:
    """Return the figure of several runs. `raws`: the raw limit in each of them, in the same order."""
    ratios = [value / raw for value, raw in zip(values, raws, strict=True)] if raws else []
    return Figure(
        bench=bench,
        name=name,
        unit=unit,
        value=median(values),
        low=min(values),
        high=max(values),
        runs=len(values),
        raw=median(raws) if raws else None,
        against=against,
        ratio=median(ratios) if ratios else None,
        goal=goal,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share (0 to 1) of the values lies."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
