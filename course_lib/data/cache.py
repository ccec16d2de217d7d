"""Where things are kept that are made once and read often."""

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from course_lib.os_errors import in_words
from course_lib.terminal import print


def cache_folder() -> Path:
    """The user's cache: $COURSE_CACHE, or ~/.cache/course_lib. It may be deleted at any time; it need not exist yet."""
    folder = Path(os.environ.get("COURSE_CACHE") or Path.home() / ".cache" / "course_lib").expanduser()
    with suppress(OSError, AttributeError):  # not there yet; Windows has no numbers of users
        if folder.stat().st_uid != os.getuid():
            _warn(folder)
    return folder


@functools.cache  # once
def _warn(folder: Path) -> None:
    print(
        f"warning: The cache folder {str(folder)!r} belongs to another user, who decides what is read from it. Choose one of "
        "your own with the environment variable COURSE_CACHE.",
        file=sys.stderr,
    )


@contextmanager
def cache_that_is_needed() -> Iterator[Path]:
    """The cache, where the work cannot go on without it: an OSError of the system inside says that it is the cache.

    Raises OSError naming the cache folder, what the system said, and how to choose another one.
    """
    folder = cache_folder()
    try:
        yield folder
    except OSError as error:
        if error.errno is None:  # raised by this library, of something else than a file
            raise
        raise OSError(
            f"The cache folder {str(folder)!r} cannot be used. {in_words(error)} It keeps what is made once: MiniStreet "
            "and common starts. Choose another folder with the environment variable COURSE_CACHE, for example "
            "COURSE_CACHE=FOLDER uda demo"
        ) from error
