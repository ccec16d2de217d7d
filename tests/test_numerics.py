"""The table of errors on all code paths: which paths this CPU has, what is too wide, and that a real run is read."""

import json

import pytest

from tests import numerics

INTEL = {"sse2", "sse4_1", "sse4_2", "avx2", "avx512f"}


@pytest.mark.parametrize(
    "name, vendor, flags, mkl, reason",
    [
        ("MKL_ENABLE_INSTRUCTIONS=AVX512", "GenuineIntel", INTEL, True, ""),
        ("MKL_ENABLE_INSTRUCTIONS=AVX512", "GenuineIntel", INTEL - {"avx512f"}, True, "this CPU has no avx512f"),
        ("MKL_ENABLE_INSTRUCTIONS=AVX2", "AuthenticAMD", INTEL, True, "MKL takes it on Intel alone"),
        ("MKL_CBWR=COMPATIBLE", "AuthenticAMD", INTEL, True, ""),
        ("MKL_CBWR=AVX2", "", set(), False, "this PyTorch has no MKL"),
        ("ATEN_CPU_CAPABILITY=avx512", "AuthenticAMD", INTEL, True, ""),
        ("ATEN_CPU_CAPABILITY=default", "", set(), False, ""),
        ("ONEDNN_MAX_CPU_ISA=SSE41", "", set(), False, "this CPU has no sse4_1"),
        ("4 threads", "", set(), False, ""),
    ],
)
def test_paths_that_this_cpu_cannot_take_are_named(name, vendor, flags, mkl, reason):
    assert numerics.missing(name, vendor, flags, mkl) == reason


def test_the_largest_ratio_of_each_test_counts_and_stated_tolerances_do_not(tmp_path):
    record = tmp_path / "record"
    lines = [("a.py::one[1]", 1.0, 4.0, "rounding"), ("a.py::one[2]", 1.0, 2.0, "rounding"), ("a.py::two", 1.0, 2.0, "stated"),
             ("a.py::three", 0.0, 0.0, "rounding")]  # fmt: skip
    text = "".join(json.dumps(dict(zip(("test", "error", "bound", "kind"), line))) + "\n" for line in lines)
    record.write_text(text, encoding="utf-8")
    assert numerics.ratios(record) == {"a.py::one": 0.5, "a.py::three": 0.0}
    assert numerics.tests_of(record) == ["a.py::one[1]", "a.py::one[2]", "a.py::two", "a.py::three"]


def test_a_bound_is_too_wide_if_it_is_on_every_path():
    table = {"near": {"a": 1e-5, "b": 0.1}, "wide": {"a": 1e-5, "b": 1e-4}, "exact": {"a": 0.0, "b": 0.0}}
    assert numerics.too_wide(table) == ["wide"]
    text = numerics.report(table, {"a": "3 compared, passed", "b": "", "c": "not taken: why"}, {"a": "0", "b": "1"}, "CPU", "x")
    assert "- wide: 10,000 times" in text and "1 of 3 tests were equal" in text
    assert "| - | c |  | not taken: why |" in text and "| near | 1e-05 | 0.1 |" in text


def test_a_run_leaves_what_it_compared(tmp_path):
    """One real path on one small file; what fails is the script's status."""
    test = tmp_path / "test_one.py"
    test.write_text("import torch\nfrom tests.bounds import bound, close\n\ndef test_one():\n"
                    "    close(1 + 2.0**-25, 1.0, bound(1, torch.float32))\n", encoding="utf-8")  # fmt: skip
    status, bits = numerics.run("2 threads", [str(test)], tmp_path / "record")
    assert status == 0 and len(bits) == 8
    (ratio,) = numerics.ratios(tmp_path / "record").values()
    assert ratio == 0.5 / (1 + 2**-24) or abs(ratio - 0.5) < 0.01
