"""Who may import whom: a room of course_lib may use the rooms below it, never one above."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "course_lib"
FLOORS = (
    {"os_errors", "typed", "terminal", "registry", "extras"},
    {"labels", "ranks", "files", "devices", "outside"},
    {"data", "networks", "losses", "prototypes", "pseudo_labels", "teacher", "mixing", "masks"},
    {"methods"},
    {"engine", "evaluation"},
    {"recipes"},
    {"experiments"},
    {"classroom"},
    {"report"},
    {"demo"},
    {"cli_data"},
    {"cli_results"},
    {"cli", "__main__"},
)
FLOOR_OF = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("course_lib.")}
    return rooms & set(FLOOR_OF)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_nothing_from_above(path):
    assert room_of(path) in FLOOR_OF, "give the new room a floor"
    above = {room for room in imported_rooms(path) if FLOOR_OF[room] > FLOOR_OF[room_of(path)]}
    assert not above, f"{path.name} stands below {', '.join(sorted(above))}"


def test_losses_can_be_lifted_out():
    """losses/ is pure tensor code: torch, itself, and the one file that knows of other processes."""
    for path in (PACKAGE / "losses").glob("*.py"):
        assert imported_rooms(path) <= {"losses", "ranks"}, path.name
