"""Names of pictures: those that lie in a folder, and those that a list file names, one a line."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from course_lib import ranks
from course_lib.files import read_text
from course_lib.terminal import print

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")  # of `reading.FORMATS`
CITYSCAPES = "_leftImg8bit.png"
LONGEST = 4096  # characters of a line that can be a name


def pictures_below(folder: Path, ending: str, refuse_circles: bool = False) -> list[str]:
    """Names of all pictures below `folder`, sorted. A folder that links lead to twice, or in a circle, is read once.

    `refuse_circles`: ValueError for a link that leads to a folder which it lies in.
    """
    names = files_below(folder, refuse_circles)
    return [name for name in names if name.endswith(ending) and name.lower().endswith(PICTURES)]


def files_below(folder: Path, refuse_circles: bool = False) -> list[str]:
    """Names of all files below `folder`, sorted, likewise; without names that begin with a dot, of files and of folders."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=_cannot_list):
        status = os.stat(here)
        if (place := (status.st_dev, status.st_ino)) in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for link in (Path(here, f) for f in folders if os.path.islink(os.path.join(here, f))):
            there = link.resolve()
            if refuse_circles and Path(here).resolve().is_relative_to(there):
                raise ValueError(
                    f"The link {str(link)!r} leads back to {str(there)!r}, which it lies in, so this folder has no end. "
                    "Remove it."
                )
            if not there.is_relative_to(Path(folder).resolve()):
                _note_link(link, there)
        inside = "" if here == str(folder) else Path(here).relative_to(folder).as_posix() + "/"
        found += [inside + f for f in files if not f.startswith(".")]
    return sorted(found)


@functools.cache  # a data set is listed more than once
def _note_link(link: Path, there: Path) -> None:
    if ranks.is_main():
        text = f"The link {str(link)!r} leaves its data set: the pictures in {str(there)!r} are read, too."
        print(f"note: {text}", file=sys.stderr)


def other_case(root: Path, wanted: str) -> Path | None:
    """What lies below `root` under the name `wanted` with other upper and lower case; None where nothing does."""
    here = root
    for part in PurePosixPath(wanted).parts:
        if not os.path.lexists(here / part):
            alike = [name for name in sorted(os.listdir(here)) if name.lower() == part.lower()] if here.is_dir() else []
            if not alike:
                return None
            part = alike[0]
        here /= part
    return here if here != root / wanted else None


def shared_file(files: Iterable[tuple[str, str]]) -> str | None:
    """Of pairs (picture, its file of another kind), what to say of the first two pictures with one file; None: no such two.

    >>> shared_file([("a.jpg", "a.png"), ("a.png", "a.png")]).partition(". ")[0]
    "The pictures 'a.jpg' and 'a.png' would share the file 'a.png'"
    """
    pictures: dict[str, str] = {}
    for picture, file in files:
        if (other := pictures.setdefault(file, picture)) != picture:
            return (
                f"The pictures {other!r} and {picture!r} would share the file {file!r}. Rename one of them, or name the wanted "
                "ones in a list file."
            )
    return None


def _cannot_list(error: OSError) -> None:
    message = f"Cannot list the folder {error.filename!r} ({error.strerror}). Check its permissions and its disk."
    raise OSError(message) from error


def given_list(asked: Path | str, root: Path) -> Path:
    """The list file that was asked for: as it stands, else below the root."""
    for path in (Path(asked).expanduser(), root / asked):
        if path.is_file():
            return path
    raise FileNotFoundError(f"No list file {str(asked)!r}, neither as it stands nor in {str(root)!r}. Check its path.")


def names_in(listing: Path, found: list[str], images: Path) -> tuple[list[str], list[tuple[int, str]]]:
    """The pictures that a list file names, and (line number, line) of those that are not in `found`.

    A picture of Cityscapes may be named without folder and ending, as in published lists: aachen_000000_000019.
    `found`: every picture below the folder `images`, of which there is at least one.
    """
    lines = read_text(listing, "utf-8-sig").splitlines()
    known = set(found)
    ids = {name.rpartition("/")[2].removesuffix(CITYSCAPES): name for name in found if name.endswith(CITYSCAPES)}
    names: list[str] = []
    unknown: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name = resolve(line.strip(), known) or ids.get(line.strip())
        if name is None:
            unknown.append((number, line.strip()[:200]))
        else:
            names.append(name)
    if not names and not unknown:
        raise ValueError(f"List file {str(listing)!r} is empty. Write one name a line, such as {found[0]!r}.")
    return names, unknown


def resolve(line: str, known: set[str]) -> str | None:
    """The picture a line means: the line itself, or its first column, less leading folders.

    >>> resolve("/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png", {"a.png"})
    'a.png'
    """
    if len(line) > LONGEST:
        return None
    for entry in dict.fromkeys((line, line.split()[0])):
        parts = [p for p in entry.replace("\\", "/").split("/") if p not in ("", ".")]
        if ".." in parts:
            return None
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            if tail in known:
                return tail
            if tail + ".png" in known:
                return tail + ".png"
    return None
