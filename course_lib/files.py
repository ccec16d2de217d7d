"""Files that survive: written whole or not at all."""

import os
import uuid
from pathlib import Path

from course_lib.os_errors import remedy


def write_whole(path: Path | str, content: bytes | memoryview | str, sync: bool = True) -> Path:
    """Write `content` (text as UTF-8) so that a crash, a kill or a full disk leaves the old file or the new one.

    The bytes go to a temporary name beside `path`, reach the disk (`sync`; left out where thousands of files are written
    that can be made again), and only then take the name. Folders are made. Several writers do not disturb one another.
    Raises OSError naming the file, what the system said and what to do; the old file is then as it was.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync and os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)  # the new name, too, reaches the disk
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        _remove(temporary)
        failure = OSError(
            f"Cannot write {path} ({len(data) / 1e6:.1f} MB): {error.strerror or error}. What was there before is as it was. "
            f"{remedy(error)}"
        )
        failure.errno = error.errno
        raise failure from error
    except BaseException:
        _remove(temporary)
        raise
    return path


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # the error that is being reported says more
