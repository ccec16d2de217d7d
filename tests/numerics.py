"""How far computed numbers are off on every code path of this CPU, beside what the tests allow: `make numerics`.

    python -m tests.numerics [--out benchmarks/results/numerics.md] [-k EXPRESSION] [FILE ...]

MKL, oneDNN and PyTorch choose their code by the processor: other vector lengths, other orders of sums, other last digits. Their
environment variables choose another one's code, as far as this processor has the instructions. The tests that compare numbers
(`tests.bounds`: close, near) run once for each path in a process of its own and write a line for each comparison. The first
path runs all of FILEs, the others what wrote a line there. One thread, where the path does not say otherwise. For each test the
table gives the largest error / bound over its comparisons: above 1 it failed, below 1/1000 on every path the bound is too wide.
"""

import argparse
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

from course_lib.files import write_whole
from tests.bounds import RECORD

ROOT = Path(__file__).parents[1]
FILES = ("tests/losses", "tests/test_prototypes.py", "tests/test_ranks.py", "tests/test_pseudo_labels.py",
         "tests/test_dynamic_labels.py", "tests/evaluation", "tests/networks", "tests/methods")  # fmt: skip
TOO_WIDE = 1000
ONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# What is set, and the instructions that the processor must have for it.
PATHS: dict[str, tuple[dict[str, str], str]] = {
    "as it is": ({}, ""),
    **{f"MKL_ENABLE_INSTRUCTIONS={isa}": ({"MKL_ENABLE_INSTRUCTIONS": isa}, need)
       for isa, need in (("AVX512", "avx512f"), ("AVX2", "avx2"), ("SSE4_2", "sse4_2"))},
    **{f"MKL_CBWR={isa}": ({"MKL_CBWR": isa}, need)
       for isa, need in (("AVX512", "avx512f"), ("AVX2", "avx2"), ("COMPATIBLE", "sse2"))},
    **{f"ATEN_CPU_CAPABILITY={isa}": ({"ATEN_CPU_CAPABILITY": isa}, need)
       for isa, need in (("avx512", "avx512f"), ("avx2", "avx2"), ("default", ""))},
    **{f"ONEDNN_MAX_CPU_ISA={isa}": ({"ONEDNN_MAX_CPU_ISA": isa}, need)
       for isa, need in (("AVX512_CORE", "avx512f"), ("AVX2", "avx2"), ("SSE41", "sse4_1"))},
    **{f"{n} threads": ({"OMP_NUM_THREADS": str(n), "MKL_NUM_THREADS": str(n)}, "") for n in (2, 4)},
}  # fmt: skip

PROBE = """
import hashlib, torch
g = torch.Generator().manual_seed(0)
a, b, w = (torch.randn(s, generator=g) for s in ((131, 300), (300, 77), (16, 8, 3, 3)))
x = torch.randn(2, 8, 33, 47, generator=g)
parts = a @ b, a.exp().sum(1), a.softmax(1), torch.conv2d(x, w), x.mean((2, 3))
print(hashlib.sha256(b"".join(p.contiguous().numpy().tobytes() for p in parts)).hexdigest()[:8])
"""


def processor() -> tuple[str, str, set[str]]:
    """(name, vendor, instructions) of this CPU, as Linux tells them; empty where nothing does."""
    try:
        lines = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if ":" in line]
    except OSError:
        return platform.processor() or platform.machine(), "", set()
    told = {key.strip(): value.strip() for key, value in reversed(lines)}
    return told.get("model name", platform.machine()), told.get("vendor_id", ""), set(told.get("flags", "").split())


def missing(name: str, vendor: str, flags: set[str], mkl: bool) -> str:
    """Why this CPU cannot take the path; empty if it can."""
    variables, need = PATHS[name]
    if any(variable.startswith("MKL_") and variable != "MKL_NUM_THREADS" for variable in variables):
        if not mkl:
            return "this PyTorch has no MKL"
        if vendor != "GenuineIntel" and name != "MKL_CBWR=COMPATIBLE":
            return "MKL takes it on Intel alone"
    return f"this CPU has no {need}" if need and need not in flags else ""


def run(name: str, what: Iterable[str], record: Path, only: str = "") -> tuple[int, str]:
    """The tests `what` that `only` selects (pytest's -k; all if empty) on one path: pytest's status, and the probe's digits."""
    environment = os.environ | ONE | PATHS[name][0] | {RECORD: str(record)}
    command = [sys.executable, "-c", PROBE]
    bits = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout.strip()
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as list_of_tests:
        list_of_tests.write("\n".join(what))
        list_of_tests.flush()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", only, f"@{list_of_tests.name}"]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, encoding="utf-8")
    if done.returncode:
        print(done.stdout[-3000:], file=sys.stderr)
    return done.returncode, bits


def ratios(record: Path) -> dict[str, float]:
    """Of each test function, the largest error / bound over its rounding comparisons and parameters."""
    largest: dict[str, float] = {}
    for line in record.read_text(encoding="utf-8").splitlines() if record.exists() else []:
        entry = json.loads(line)
        if entry["kind"] == "rounding":
            test = entry["test"].partition("[")[0]
            ratio = entry["error"] / entry["bound"] if entry["error"] else 0.0
            largest[test] = max(largest.get(test, 0.0), ratio)
    return largest


def tests_of(record: Path) -> list[str]:
    """The tests that compared numbers, each once, parameters and all, in their order."""
    return list(dict.fromkeys(json.loads(line)["test"] for line in record.read_text(encoding="utf-8").splitlines()))


def too_wide(table: dict[str, dict[str, float]]) -> list[str]:
    """The tests whose bound is more than a thousand times the error on every path; an error of 0 says nothing."""
    largest = {test: max(row.values()) for test, row in table.items()}
    return [test for test, ratio in largest.items() if 0 < ratio < 1 / TOO_WIDE]


def report(table: dict[str, dict[str, float]], paths: dict[str, str], bits: dict[str, str], cpu: str, command: str) -> str:
    """The Markdown text. paths: name -> what is to be said of it; table: test -> path -> error / bound."""
    taken = [name for name in paths if name in bits]
    numbers = {name: str(k) for k, name in enumerate(taken, start=1)}
    lines = ["# Rounding errors and bounds on every code path of one CPU", "",
             f"`{command}`: {cpu}, PyTorch {torch.__version__}, Python {platform.python_version()}.",
             "error / bound, the largest of each test's comparisons; above 1 a test fails. 0: equal to the last bit.", "",
             "| path | | probe | tests |", "|---|---|---|---|"]  # fmt: skip
    lines += [f"| {numbers.get(name, '-')} | {name} | {bits.get(name, '')} | {said} |" for name, said in paths.items()]
    lines += ["", "Paths with the same probe give the same digits in products, convolutions, exp, softmax and sums.", "",
              f"| test | {' | '.join(numbers[name] for name in taken)} |", "|---|" + "---|" * len(taken)]  # fmt: skip
    for test, row in table.items():
        cells = (f"{row[name]:.2g}" if name in row else "-" for name in taken)
        lines.append(f"| {test.removeprefix('tests/')} | {' | '.join(cells)} |")
    wide = too_wide(table)
    exact = sum(not any(row.values()) for row in table.values())
    lines += ["", f"## Too wide: a bound of more than {TOO_WIDE} times the error on every path ({len(wide)})", ""]
    lines += [f"- {test.removeprefix('tests/')}: {1 / max(table[test].values()):,.0f} times" for test in wide] or ["None."]
    lines += ["", f"{exact} of {len(table)} tests were equal to the last bit on every path."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", default=FILES, help="test files or folders; all numeric ones without")
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="only these tests, as pytest's -k, e.g. 'not processes'")
    parser.add_argument("--out", type=Path, help="write the table there, too")
    arguments = parser.parse_args()
    cpu, vendor, flags = processor()
    said, bits, table, failed, chosen = {}, {}, {}, False, list(arguments.files)
    with tempfile.TemporaryDirectory() as folder:
        for name in PATHS:
            if reason := missing(name, vendor, flags, torch.backends.mkl.is_available()):
                said[name] = f"not taken: {reason}"
                continue
            record = Path(folder) / hashlib.sha256(name.encode()).hexdigest()
            status, bits[name] = run(name, chosen, record, arguments.k)
            failed |= status != 0
            chosen = tests_of(record) if name == next(iter(PATHS)) else chosen
            for test, ratio in ratios(record).items():
                table.setdefault(test, {})[name] = ratio
            said[name] = f"{len(tests_of(record))} compared, {'FAILED' if status else 'passed'}"
            print(f"{name}: {said[name]}", file=sys.stderr, flush=True)
    words = [*(["-k", arguments.k] if arguments.k else []), *(arguments.files if arguments.files != FILES else [])]
    command = shlex.join(["python", "-m", "tests.numerics", *words])
    text = report(table, said, bits, cpu, command)
    print(text, end="")
    if arguments.out:
        write_whole(arguments.out, text)
    sys.exit(failed)


if __name__ == "__main__":
    main()
