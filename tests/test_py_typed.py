"""A user's small project type-checks against the public names, with mypy as it is by default, and runs."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "tests" / "typed_project" / "street.py"


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """Check a file in a folder outside the checkout; returns what mypy prints of it.

    MYPYPATH: mypy does not find a checkout that is installed with -e. Errors inside the library are not the user's: silent.
    """
    cache = tmp_path_factory.mktemp("cache")

    def run(path: Path) -> str:
        words = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--cache-dir", str(cache), str(path)]
        return subprocess.run(words, cwd=path.parent, env=os.environ | {"MYPYPATH": str(ROOT)}, capture_output=True,
                              encoding="utf-8").stdout  # fmt: skip

    return run


def test_a_users_project_type_checks(mypy, tmp_path):
    path = tmp_path / "street.py"
    path.write_bytes(PROJECT.read_bytes())
    assert mypy(path) == "Success: no issues found in 1 source file\n"


@pytest.mark.parametrize("right, wrong, said", [
    ("class Sharp(Term):", "class Sharp(Termm):", "Name .Termm. is not defined"),
    ("SharpSettings(weight=0.1)", "SharpSettings(wait=0.1)", "Unexpected keyword argument .wait. for .SharpSettings."),
    ('quiet=True)\n    last', 'quiet="yes")\n    last', "Argument .quiet. to .train. has incompatible type .str."),
    ("classes: int = network.num_classes", "classes: str = network.num_classes", "expression has type .int., variable"),
    ("scores.miou:.3f", "scores.mious:.3f", ".Scores. has no attribute .mious."),
    ("import Prediction, Segmenter, build", "import Predictions, Segmenter, build", "has no attribute .Predictions."),
])  # fmt: skip
def test_a_mistake_is_found(right, wrong, said, mypy, tmp_path):
    """Else the names would all be Any, and nothing would be checked."""
    text = PROJECT.read_text(encoding="utf-8")
    assert right in text
    (tmp_path / "street.py").write_text(text.replace(right, wrong), encoding="utf-8")
    assert re.search(said, mypy(tmp_path / "street.py"))


def test_the_project_runs(tmp_path):
    done = subprocess.run([sys.executable, str(PROJECT), str(tmp_path)], capture_output=True, encoding="utf-8",
                          env=os.environ | {"COURSE_CACHE": str(tmp_path / "cache")})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "4 files, mIoU" in done.stdout and "19 classes, (1, 19, 8, 16), adaptsegnet" in done.stdout


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "course_lib" / "py.typed").is_file()
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    assert data["course_lib"] == ["py.typed"]
