# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a comparison: medians of several rounds, ratios round by round, and what was aimed at."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REFERENCE = "debian"


@dataclass(frozen=True, slots=True)
class Target:
    """`metric` of `column`, divided by the reference's, is to be at least or at most `ratio`."""

    column: str
    metric: str
    ratio: float
    at_least: bool = True

    def verdict(self, ratio: float) -> str:
        """How a measured ratio stands to it."""
        is_met = ratio >= self.ratio if self.at_least else ratio <= self.ratio
        bound = ">=" if self.at_least else "<="
        return (
            f"{self.column} {self.metric}: {ratio:.2f}x, wanted {bound} {self.ratio:g}x: "
            f"{'met' if is_met else 'MISSED'}"
        )


class Table:
    """What one question's rounds gave, per column (a daemon, perhaps with the spin) and metric."""

    def __init__(self, title: str, targets: Sequence[Target] = ()) -> None:
        self.title = title
        self._targets = targets
        self._rounds: list[dict[str, dict[str, float]]] = []

    def add(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        """One round: figures by column and metric."""
        self._rounds.append({column: dict(metrics) for column, metrics in figures.items()})

    def ratio(self, column: str, metric: str) -> float:
        """Median over the rounds of this column's figure divided by the reference's of the same round."""
        return statistics.median(
            each[column][metric] / each[REFERENCE][metric] if each[REFERENCE][metric] else 0.0
            for each in self._rounds
        )

    def render(self) -> str:
        """The table as text."""
        columns = list(self._rounds[0])
        metrics = list(self._rounds[0][columns[0]])
        width = max(14, *(len(metric) + 2 for metric in metrics))
        lines = [self.title, " " * 14 + "".join(f"{metric:>{width}}" for metric in metrics)]
        for column in columns:
            middle = [statistics.median(each[column][metric] for each in self._rounds) for metric in metrics]
            lines.append(f"  {column:<12}" + "".join(f"{_figure(value):>{width}}" for value in middle))
        for column in columns:
            if column != REFERENCE and REFERENCE in columns:
                ratios = [self.ratio(column, metric) for metric in metrics]
                lines.append(
                    f"  {'x ' + column:<12}" + "".join(f"{f'{value:.2f}x':>{width}}" for value in ratios)
                )
        lines += [
            f"  {target.verdict(self.ratio(target.column, target.metric))}"
            for target in self._targets
            if target.column in columns and REFERENCE in columns
        ]
        return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


class Steal:
    """Processor time that the machine under this one took away, in cores."""

    def __init__(self) -> None:
        self._began = self._read()

    def cores(self) -> float:
        """Mean since this was made."""
        stolen, at_s = self._read()
        return (stolen - self._began[0]) / max(1e-3, at_s - self._began[1])

    @staticmethod
    def _read() -> tuple[float, float]:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        return int(fields[8]) / os.sysconf("SC_CLK_TCK"), time.monotonic()


def machine() -> str:
    """What this ran on, in one line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return (
        f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.2f} at the beginning"
    )
