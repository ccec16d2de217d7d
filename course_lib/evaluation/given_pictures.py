"""Files and folders that a user names -> pictures, and for each the name that its results get."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from course_lib.data.names import PICTURES, files_below
from course_lib.files import made_by
from course_lib.terminal import shown

NAMED = 3  # files that a note names


class Given(NamedTuple):
    """A picture, and what its results are called below OUT, without an ending."""

    path: Path
    name: str


def given_pictures(paths: Sequence[Path], kind: str) -> tuple[list[Given], list[str]]:
    """The pictures among `paths`, those of folders with their place below the folder, and notes on files that are left out.

    A picture's name is its file's without the ending, and with it where two pictures of one place differ in the ending alone
    (x.png, x.jpg). Of several folders each is a folder of the results. Left out of a folder: files that are no pictures by
    their ending, results of the command `kind`, and what begins with a dot.

    Raises FileNotFoundError for a path where nothing is, or a folder without a picture; ValueError where two pictures would
    still get one name.
    """
    folders = [path for path in dict.fromkeys(paths) if path.is_dir()]
    found: dict[Path, str] = {}
    others: list[Path] = []
    results = 0
    for path in dict.fromkeys(paths):
        if path not in folders:
            if not path.is_file():
                raise FileNotFoundError(f"No picture and no folder at {path}. Check the name.")
            found.setdefault(path, path.name)
            continue
        names = files_below(path)
        pictures = [name for name in names if name.lower().endswith(PICTURES)]
        others += [path / name for name in names if not name.lower().endswith(PICTURES)]
        own = {name for name in pictures if made_by(path / name, kind)}
        results += len(own)
        before = f"{path.resolve().name}/" if len(folders) > 1 else ""
        for name in pictures:
            if name not in own:
                found.setdefault(path / name, before + name)
        if len(own) == len(pictures):
            raise FileNotFoundError(f"No pictures in the folder {path}, wanted *{' or *'.join(PICTURES)}. Check the name.")
    stems = Counter(map(stem_of, found.values()))
    given = [Given(path, stem_of(name) if stems[stem_of(name)] == 1 else name) for path, name in found.items()]
    taken: dict[str, Path] = {}
    for path, name in given:
        if (other := taken.setdefault(name, path)) is not path:
            raise ValueError(
                f"The results of {other} and {path} would both be called {name}. Rename one, or label them in two calls "
                "with different folders OUT."
            )
    return given, _notes(others, results, kind)


def _notes(others: list[Path], results: int, kind: str) -> list[str]:
    notes = []
    if others:
        some = ", ".join(shown(path) for path in others[:NAMED]) + (", ..." if len(others) > NAMED else "")
        notes.append(f"no pictures by their ending, left out: {len(others)} ({some})")
    if results:
        notes.append(f"results of an earlier `{kind}`, left out: {results}")
    return notes


def stem_of(name: str) -> str:
    """A name without its ending, folders included.

    >>> stem_of("a.b/c.d.png")
    'a.b/c.d'
    """
    return str(PurePosixPath(name).with_suffix(""))
