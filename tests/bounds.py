"""How far two computed numbers may lie apart: tolerances from the arithmetic, and the comparison that uses them.

Letters: u = eps / 2 the unit roundoff of a format (6e-8 in float32), n roundings, gamma_n = n u / (1 - n u).

A rounding to nearest multiplies a result by 1 + delta, |delta| <= u (Higham, "Accuracy and Stability of Numerical Algorithms",
lemma 3.1): n of them in a row multiply by at most 1 + gamma_n. In a sum of n products, whatever the order, the blocks or the
vector lanes, with fused multiply-add or without, each product passes at most n roundings (one product, n - 1 additions), so

    |computed - exact| <= gamma_n sum_i |x_i y_i|                                             (Higham, eq. 3.4 and 4.4)

This holds on every processor, because it does not depend on the order. It is reached only if all roundings point the same way.
For more than 25 roundings we take the probabilistic form: with delta_i independent and of mean 0, the bound with

    gamma~_n(l) = l sqrt(n) u                                                                 (Higham and Mary, 2019, th. 2.4)

fails for one result with a probability of at most 2 exp(-l^2 / 2), which is 7e-6 for l = 5; roundings that are spread evenly
over +-u have the standard deviation sqrt(n / 3) u, of which it is 8.7. The two agree at n = 25. With one step of the smallest
numbers, which rounding near 0 may add,

    bound(n, dtype, size) = m u / (1 - m u) size + smallest step,    m = min(n, 5 sqrt(n))
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

CERTAINTY = 5.0  # l above
RECORD = "NUMERICS_RECORD"  # the variable that names a file: `close` and `near` add a line (test, error, bound, ...) to it


@dataclass(frozen=True)
class Tolerance:
    """An absolute tolerance, a number or one for each number compared. kind: "rounding", "printed" or "stated"."""

    value: Any
    kind: str
    reason: str = ""

    def __mul__(self, factor: float) -> "Tolerance":
        return Tolerance(self.value * factor, self.kind, self.reason)

    def __add__(self, other: "Tolerance") -> "Tolerance":
        """Both may apply. Of two kinds, the one that is not about rounding."""
        kind = self.kind if other.kind == "rounding" else other.kind
        return Tolerance(self.value + other.value, kind, self.reason or other.reason)


def bound(terms: int, dtype: torch.dtype, size: Any = 1.0) -> Tolerance:
    """What rounding to `dtype` may do to a result that passes through `terms` roundings.

    terms: the roundings on the longest way from an input to the result: n for a sum of n terms or for an inner product of n
        pairs (n - 1 additions, one product), and one more for each further operation. exp, log and the like count 2 (their
        vectorised forms are within one unit in the last place, twice u).
    size: the sum of the magnitudes that are added up; for a mean over n terms, the magnitude of one; an array gives a
        tolerance for each number. Where a function follows (exp, division by tau), times the largest slope it has.
    """
    u, step = torch.finfo(dtype).eps / 2, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    mu = min(terms, CERTAINTY * math.sqrt(terms)) * u
    if mu >= 1:
        raise ValueError(f"After {terms} roundings to {dtype} no digit is certain: there is no bound. Compare something else.")
    size = abs(_array(size))
    return Tolerance(mu / (1 - mu) * size + step, "rounding")


def roundings(network: torch.nn.Module) -> int:
    """The roundings on the way through a network: the inner products of its layers, one after the other (branches, too), and
    five more for each layer (bias, normalisation, activation, addition)."""
    return sum(weight[0].numel() + 5 for weight in network.parameters() if weight.ndim > 1)


def printed(text: str) -> tuple[float, Tolerance]:
    """A published number and half a unit of its last printed digit: `close(loss, *printed("2.9066"))`.

    >>> value, tolerance = printed("2.90e-3")
    >>> value, tolerance.value
    (0.0029, 5e-06)
    """
    digits, _, power = text.lower().partition("e")
    unit = float(f"1e{int(power or 0) - len(digits.partition('.')[2])}")
    return float(text), Tolerance(unit / 2, "printed", f"{text} is printed with {len(digits.partition('.')[2])} decimals")


def stated(tolerance: float, reason: str) -> Tolerance:
    """A tolerance that is not about rounding: the next term of a series, a difference quotient, a pixel that may tip."""
    if not reason:
        raise ValueError("stated wants a reason: why two exact computations would differ by that much.")
    return Tolerance(tolerance, "stated", reason)


def near(got: Any, wanted: Any, tolerance: Tolerance, nan_ok: bool = False) -> bool:
    """Whether all numbers of `got` lie within `tolerance` of `wanted`: numbers, lists, dictionaries, arrays or tensors.

    Shapes and keys are the same. NaN is near NaN with nan_ok, and near nothing without.
    """
    ratio, _, record = _excess(got, wanted, tolerance, nan_ok)
    if ratio <= 1:
        _write(record)
    return ratio <= 1


def close(got: Any, wanted: Any, tolerance: Tolerance, nan_ok: bool = False, what: str = "") -> None:
    """`near`, with an AssertionError that shows the worst place."""
    ratio, place, record = _excess(got, wanted, tolerance, nan_ok)
    _write(record)
    if not ratio <= 1:
        raise AssertionError(f"{what}{': ' if what else ''}{place}, {ratio:.3g} times the tolerance. {tolerance.reason}")


def far(got: Any, wanted: Any, least: float) -> bool:
    """Whether some number of `got` is off by more than `least`: two ways that must not be the same."""
    return bool((abs(_array(got) - _array(wanted)) > least).any())


def _excess(got: Any, wanted: Any, tolerance: Tolerance, nan_ok: bool) -> tuple[float, str, dict | None]:
    """The largest |got - wanted| / tolerance, the place in words, and the line for the record."""
    if not isinstance(tolerance, Tolerance):
        wanted = "bound(terms, dtype, size), printed(text) or stated(value, reason)"
        raise TypeError(f"tolerance is {tolerance!r}; it wants {wanted}.")
    if isinstance(wanted, Mapping):
        if not isinstance(got, Mapping) or got.keys() != wanted.keys():
            return math.inf, f"Got {got}, wanted {wanted}: other keys", None
        got, wanted = [got[key] for key in wanted], list(wanted.values())
    a, b = _array(got), _array(wanted)
    if a.shape != b.shape:
        return math.inf, f"Got the shape {a.shape}, wanted {b.shape}", None
    limit = np.broadcast_to(_array(tolerance.value), a.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.where(a == b, 0.0, abs(a - b))
        if nan_ok:
            error = np.where(np.isnan(a) & np.isnan(b), 0.0, error)
        ratio = np.where(error == 0, 0.0, error / limit)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    if not ratio.size:
        return 0.0, "Nothing to compare", None
    worst = np.unravel_index(ratio.argmax(), ratio.shape)
    record = {"error": float(error[worst]), "bound": float(limit[worst]), "kind": tolerance.kind}
    where = f" at {tuple(int(i) for i in worst)}" if worst else ""
    place = f"Got {float(a[worst])!r}, wanted {float(b[worst])!r} +- {limit[worst]:.3g}{where}"
    return float(ratio[worst]), place, record


def _write(record: dict | None) -> None:
    path = os.environ.get(RECORD)
    if path and record:
        test = os.environ.get("PYTEST_CURRENT_TEST", "?").rpartition(" ")[0]
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test, **record}) + "\n")


def _array(numbers: Any) -> np.ndarray:
    """As float64, so that the comparison itself rounds nothing that matters."""
    if isinstance(numbers, torch.Tensor):
        return numbers.detach().to("cpu", torch.float64).numpy()
    if isinstance(numbers, (list, tuple)) and any(isinstance(x, torch.Tensor) for x in numbers):
        return np.stack([_array(x) for x in numbers])
    return np.asarray(numbers, dtype=np.float64)
