"""Run the tests with the lowest versions that pyproject.toml allows and with the newest: `make bounds [ARGS=tests/losses]`.

Makes two environments with uv below .bounds/ (a few GB each; remove them afterwards), runs pytest in each, and writes what was
run to tests/version_bounds.toml. A run with a failure is not recorded; tests/test_setup.py refuses a bound without a record.
"""

import json
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "tests" / "version_bounds.toml"
KINDS = {"lowest": ("3.11", "lowest-direct"), "newest": ("3.13", "highest")}  # Python, how uv resolves


def environment(folder: Path, python: str, resolution: str) -> Path:
    """An environment with all extras, the build requirement and this checkout; returns its Python."""
    uv = ["uv", "pip", "install", "--quiet", "--python", str(folder)]
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", python, str(folder)], check=True)
    subprocess.run([*uv, "--resolution", resolution, "--all-extras", "-r", "pyproject.toml", *build], cwd=ROOT, check=True)
    subprocess.run([*uv, "--no-deps", "--no-build-isolation", "-e", "."], cwd=ROOT, check=True)
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def versions(python: Path) -> dict[str, str]:
    """What is installed there, and its Python."""
    listed = subprocess.run(["uv", "pip", "list", "--format", "json", "--python", str(python)],
                            capture_output=True, encoding="utf-8", check=True).stdout  # fmt: skip
    code = "import platform; print(platform.python_version())"
    own = subprocess.run([str(python), "-c", code], capture_output=True, encoding="utf-8", check=True).stdout.strip()
    return {"python": own} | {each["name"]: each["version"] for each in json.loads(listed) if each["name"] != "course-lib"}


def run_tests(python: Path, arguments: list[str]) -> str:
    """Run pytest; returns its last line. Ends this program where a test fails."""
    # what reads the record is left out: it is about to be written
    reading = "tests/test_setup.py::test_bounds_are_recorded_by_make_bounds"
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--deselect", reading, *arguments]
    lines = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8") as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.strip())
    (said,) = [line for line in lines if re.fullmatch(r"=*\s*\d+ (passed|failed).* in [\d.]+s.*", line)][-1:] or [""]
    if process.returncode:
        sys.exit(f"Not recorded: {said or 'no test ran'}. Raise the bound that is too low, or correct what fails.")
    return re.sub(r" in [\d.]+s.*", "", said.strip("= "))


def main() -> None:
    """The kinds named first (lowest, newest; both by default), then pytest's arguments (by default: tests)."""
    words = sys.argv[1:]
    kinds = [words.pop(0) for _ in range(2) if words and words[0] in KINDS] or list(KINDS)
    for kind in kinds:
        python = environment(ROOT / ".bounds" / kind, *KINDS[kind])
        result = run_tests(python, words or ["tests"])
        record = tomllib.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
        record[kind] = {"date": time.strftime("%Y-%m-%d"), "platform": sys.platform, "tests": " ".join(words or ["tests"]),
                        "result": result, "versions": versions(python)}  # fmt: skip
        RECORD.write_text(as_toml(record), encoding="utf-8")


def as_toml(record: dict[str, dict]) -> str:
    lines = ["# Written by `make bounds` (tests/version_bounds.py): what pyproject.toml allows was tested with these versions."]
    for kind, run in record.items():
        lines += ["", f"[{kind}]", *(f"{key} = {json.dumps(value)}" for key, value in run.items() if key != "versions")]
        lines += [f"[{kind}.versions]", *(f"{name} = {json.dumps(version)}" for name, version in run["versions"].items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
