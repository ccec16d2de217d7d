"""The paired difference of two rows of a comparison: the same seeds, class by class, with Student's interval.

d_s = 100 (IoU of row A with seed s - IoU of row B with seed s)   points
mean ± t sd(d) / sqrt(n),   sd with n - 1, t the 0.975 quantile of Student's distribution with n - 1 degrees of freedom

A row and its control share a seed's start, batches and pictures: what differs between seeds in both alike cancels.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from course_lib.evaluation.scoring import ScoresContent
from course_lib.files import read_json
from course_lib.registry import find_named
from course_lib.terminal import shown


class RowContent(TypedDict):
    """A row of results.json, as far as it is read here."""

    seeds: dict[str, ScoresContent]


class ResultsContent(TypedDict):
    """The content of `compare`'s results.json, as far as it is read here."""

    rows: dict[str, RowContent]


@dataclass(frozen=True)
class Difference:
    """Points that row A is above row B, of one class or of the mean over classes."""

    name: str
    points: dict[str, float]  # by seed; a seed with which one of the rows has no IoU of this class is missing

    @property
    def mean(self) -> float:
        """nan without seeds."""
        return statistics.fmean(self.points.values()) if self.points else float("nan")

    @property
    def half(self) -> float:
        """Half of the 95 % interval of the mean; nan for fewer than two seeds."""
        return half_interval(list(self.points.values())) if len(self.points) > 1 else float("nan")

    @property
    def p(self) -> float:
        """Of Student's two-sided test that the mean is 0; nan for fewer than two seeds."""
        if len(self.points) < 2:
            return float("nan")
        freedom = len(self.points) - 1
        if self.half == 0:  # all points alike
            return float(self.mean == 0)
        return 1 - _within(abs(self.mean) / self.half * t_quantile(freedom), freedom)


def read_results(path: Path | str) -> dict[str, Any]:
    """The results of `uda compare` or `uda ablate`, from results.json or from the folder that holds it; types are checked."""
    path = Path(path).expanduser()
    path = path / "results.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"No results at {path}. {_GIVE}")
    try:
        return read_json(path, ResultsContent)
    except ValueError as error:
        raise ValueError(f"{error} {_GIVE}") from error


_GIVE = "Give the folder OUT of `uda compare` or `uda ablate`."


def differences(results: Mapping[str, Any], row_a: str, row_b: str) -> list[Difference]:
    """A - B for each class, then for mIoU. Raises ValueError for a row that is not there, or rows with different seeds."""
    for name in (row_a, row_b):
        find_named("row", name, results["rows"])
    a, b = (results["rows"][name]["seeds"] for name in (row_a, row_b))
    if a.keys() != b.keys():
        raise ValueError(
            f"Row {row_a!r} has the seeds {', '.join(a)}, row {row_b!r} has {', '.join(b)}; a paired difference needs the "
            "same. Run both with the same --seeds."
        )
    classes = dict.fromkeys(name for run in (*a.values(), *b.values()) for name in run["iou"])
    found = [Difference(name, _points({s: (a[s]["iou"].get(name), b[s]["iou"].get(name)) for s in a})) for name in classes]
    return [*found, Difference("mIoU", _points({s: (a[s]["miou"], b[s]["miou"]) for s in a}))]


def _points(pairs: Mapping[str, tuple[float | None, float | None]]) -> dict[str, float]:
    return {seed: 100 * (a - b) for seed, (a, b) in pairs.items() if a is not None and b is not None}


def table(found: list[Difference], seeds: list[str]) -> str:
    """For a terminal: a line for each class, the means below."""
    width = max(len(shown(each.name)) for each in found)
    lines = [f"{'':<{width}}" + "".join(f"{'seed ' + seed:>10}" for seed in seeds) + f"{'mean':>10}   95 % interval  seeds"]
    for each in found:
        lines += ["-" * len(lines[0])] * (each.name == "mIoU")
        cells = [f"{each.points[seed]:+.2f}" if seed in each.points else "-" for seed in seeds]
        cells.append("-" if math.isnan(each.mean) else f"{each.mean:+.2f}")
        ends = "-" if math.isnan(each.half) else f"{each.mean - each.half:+.2f} {each.mean + each.half:+.2f}"
        numbers = "".join(f"{cell:>10}" for cell in cells) + f"{ends:>16}{len(each.points):>7}"
        lines.append(f"{shown(each.name):<{width}}{numbers}")
    return "\n".join(lines)


def half_interval(values: list[float]) -> float:
    """Half of Student's 95 % interval of the mean of n >= 2 values: t sd / sqrt(n)."""
    return t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def t_quantile(freedom: int) -> float:
    """The 0.975 quantile of Student's distribution: the t with P(|T| <= t) = 0.95.

    By bisection of the closed form of P (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4).

    >>> [round(t_quantile(n), 4) for n in (1, 2, 4, 9)]
    [12.7062, 4.3027, 2.7764, 2.2622]
    """
    low, high = 1.9, 13.0  # between the normal distribution's 1.96 and 12.706 for one degree
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 0.95 else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """P(|T| <= t) for T of Student's distribution."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(1 + odd, freedom, 2):  # 1 + c^2/2 + (1 3)/(2 4) c^4 + ... and c + 2/3 c^3 + (2 4)/(3 5) c^5 + ...
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
