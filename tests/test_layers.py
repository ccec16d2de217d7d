"""Which part of course_lib may import which: a layer imports from the layers before it, never from a later one."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "course_lib"
LAYERS = (
    {"os_errors", "typed", "terminal", "registry", "extras"},
    {"labels", "ranks", "files", "devices", "outside"},
    {"data", "networks", "losses", "prototypes", "class_memory", "pseudo_labels", "teacher", "mixing", "masks"},
    {"methods"},
    {"engine", "evaluation"},
    {"recipes"},
    {"experiments"},
    {"classroom"},
    {"report"},
    {"demo"},
    {"cli_data", "cli_labels"},
    {"cli_results"},
    {"cli", "__main__"},
)
LAYER_OF = {part: number for number, parts in enumerate(LAYERS) for part in parts}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("course_lib.")}
    return parts & set(LAYER_OF)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_nothing_from_a_later_layer(path):
    assert part_of(path) in LAYER_OF, "give the new part a layer"
    later = {part for part in imported_parts(path) if LAYER_OF[part] > LAYER_OF[part_of(path)]}
    assert not later, f"{path.name} is in an earlier layer than {', '.join(sorted(later))}"


def test_losses_import_nothing_else_of_this_package():
    """losses/ is pure tensor code: torch, itself, and the one file that knows of other processes."""
    for path in (PACKAGE / "losses").glob("*.py"):
        assert imported_parts(path) <= {"losses", "ranks"}, path.name
