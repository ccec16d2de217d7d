"""Files that survive: written whole or not at all, and never over a file of somebody else (docs/files.md).

And files that may be hostile: what is read here is a regular file of a bounded size, and JSON has the types that are wanted.
"""

import csv
import errno
import hashlib
import io
import json
import os
import re
import stat
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from course_lib.os_errors import remedy
from course_lib.typed import checked

HEAD = 4096  # bytes of a result in which its mark stands
MOST = 2**26  # bytes of a text that is read: the manifest of 100,000 prepared pictures has half of that


def folder_name(name: str) -> str:
    """A name of a row or a method as that of a folder, on every system.

    >>> folder_name("source-only, 2 x compute"), folder_name("my_method.py:Sure")
    ('source-only_2_x_compute', 'my_method_py_Sure')
    """
    return re.sub(r"[^\w-]+", "_", name).strip("_")


def write_whole(path: Path | str, content: bytes | memoryview | str, sync: bool = True) -> Path:
    """Write `content` (text as UTF-8) so that a crash, a kill or a full disk leaves the old file or the new one.

    The bytes go to a temporary name beside `path`, reach the disk (`sync`; left out where thousands of files are written
    that can be made again), and only then take the name. Folders are made. Several writers do not disturb one another.
    Raises OSError naming the file, what the system said and what to do; the old file is then as it was.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # the error that is being reported says more
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        failure = OSError(
            f"Cannot write {path} ({len(data) / 1e6:.1f} MB): {error.strerror or error}. What was there before is as it was. "
            f"{remedy(error)}"
        )
        failure.errno = error.errno
        raise failure from error
    if sync and os.name == "posix":
        _sync_folder(path.parent)
    return path


def _sync_folder(folder: Path) -> None:
    """The new name, too, reaches the disk; some network and shared drives cannot do that for folders."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise OSError(
                f"A file in {folder} was written, but the system could not confirm that the disk has it ({error.strerror}). "
                "Check the disk."
            ) from error
    finally:
        os.close(opened)


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file, or a link to one, to read its bytes: a pipe would wait for ever, a device never end.

    Raises OSError as `open` does, ValueError for anything else than a file.
    """
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # of POSIX: does not wait for a writer; of Windows
    opened = os.open(path, os.O_RDONLY | flags)
    try:
        if not stat.S_ISREG(mode := os.fstat(opened).st_mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise ValueError(f"{str(path)!r} is {what}, wanted a regular file. Move it away.")
        return os.fdopen(opened, "rb")
    except BaseException:
        os.close(opened)
        raise


def read_text(path: Path | str, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of a regular file of at most `MOST` bytes.

    Raises OSError as `open` does; ValueError that names the file for one that is larger, no file, or in another encoding.
    """
    with open_regular(path) as file:
        data = file.read(MOST + 1)
    if len(data) > MOST:
        raise ValueError(f"{str(path)!r} has more than the {MOST / 1e6:.0f} MB that are read of a text. Move it away.")
    try:
        return data.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no UTF-8 text ({error}). Save it as plain text.") from error


def read_json(path: Path | str, hint: Any = dict) -> Any:
    """The content of a JSON file, with the types that `hint` says (`typed.checked`).

    Raises OSError as `open` does; ValueError that names the file, what came and what was wanted.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is no JSON text ({error}). {_MOVE}") from error
    try:
        return checked(hint, content, repr(str(path)))
    except ValueError as error:
        raise ValueError(f"{error} {_MOVE}") from error


_MOVE = "It is damaged, or of another version or program: move it away."


def digest(path: Path | str) -> str | None:
    """SHA-256 of a regular file, None if it cannot be read or is none."""
    with suppress(OSError, ValueError):
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return None


def temporary_name(path: Path) -> Path:
    """Beside `path`, and no other writer's."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether `temporary_name` made this name: what a killed process was writing.

    >>> is_temporary(temporary_name(Path("best.pt"))), is_temporary(Path(".notes.tmp"))
    (True, False)
    """
    return re.fullmatch(r"\..+\.[0-9a-f]{12}\.tmp", path.name) is not None


def mark(kind: str) -> str:
    """What a result says of its origin, within its first `HEAD` bytes; `kind` is the command, such as "uda evaluate"."""
    return f"made by `{kind}`"


def comment(kind: str) -> str:
    """The mark as the first line of a Markdown file, which is not shown."""
    return f"<!-- {mark(kind)} -->\n"


def made_by(path: Path, kind: str) -> bool:
    """Whether `path` is a result of that kind: near its beginning, JSON and CSV have "made_by", other files `mark(kind)`."""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return _marked(file.read(HEAD), kind)
    return False


def _marked(head: bytes, kind: str) -> bool:
    first, _, rest = head.partition(b"\n")
    table = first.endswith(b",made_by") and f",{kind}\n".encode() in rest
    return table or mark(kind).encode() in head or f'"made_by": "{kind}"'.encode() in head


def table_text(columns: Sequence[str], rows: Iterable[Sequence[object]], kind: str) -> str:
    """Rows as CSV with a head of column names; a last column `made_by` is the mark. None becomes an empty cell.

    >>> table_text(("class", "iou"), [("road", 0.5), ("sky", None)], "uda score").splitlines()
    ['class,iou,made_by', 'road,0.5,uda score', 'sky,,uda score']
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([(*columns, "made_by"), *((*row, kind) for row in rows)])
    return text.getvalue()


def refuse_foreign(path: Path | str, kind: str, replace: bool = False, reading: Iterable[Path | str] = ()) -> None:
    """Raise FileExistsError where a result of `kind` would be written over a file that is none.

    A command calls it for everything it will write before it begins to work. replace: the user wants to lose what is there
    (`--replace`), though never a file or link of `reading`, what the command reads, and never a folder.
    """
    path = Path(path)
    if any(_same_file(path, Path(each)) for each in reading):
        raise FileExistsError(f"{path} is read by this command, so it cannot be its output. Give another name for the result.")
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder; the result is a file. Give a name, for example {path / 'result.json'}.")
    if os.path.lexists(path) and not replace and not made_by(path, kind):
        raise FileExistsError(
            f"{path} exists and is no result of `{kind}`, so it is not overwritten. Give another name or folder, or move "
            "that file away."
        )


def write_result(path: Path | str, content: bytes | memoryview | str, kind: str, replace: bool = False) -> Path:
    """`write_whole` a result of the command `kind`, over an older one of that kind alone (`refuse_foreign`).

    The content must hold the mark, or the next run would take this file for somebody else's: ValueError.
    """
    head = content[:HEAD].encode() if isinstance(content, str) else bytes(content[:HEAD])
    if not _marked(head[:HEAD], kind):
        raise ValueError(f"The content of {path} does not say {mark(kind)!r} in its first {HEAD} bytes.")
    refuse_foreign(path, kind, replace)
    return write_whole(path, content)


def write_json(path: Path | str, content: dict[str, Any], kind: str, replace: bool = False) -> Path:
    """`write_result` of JSON, the mark in its first line."""
    return write_result(path, json.dumps({"made_by": kind, **content}, indent=1) + "\n", kind, replace)


def refuse_data(out: Path, originals: Iterable[Path]) -> None:
    """Raise ValueError where the folder `out` lies in one of the folders `originals` or around it, links resolved."""
    here = out.resolve()
    for original in originals:
        there = original.resolve()
        if here == there or there in here.parents or here in there.parents:
            raise ValueError(
                f"--out {str(out)!r} and the data in {str(there)!r} lie in one another. Data that is read is never "
                "touched: give a folder beside it, or on another disk."
            )


def _same_file(a: Path, b: Path) -> bool:
    with suppress(OSError):
        return os.path.samefile(a, b)
    return False
