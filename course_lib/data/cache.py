"""Where things are kept that are made once and read often."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from course_lib.os_errors import in_words


def cache_folder() -> Path:
    """The user's cache: $COURSE_CACHE, or ~/.cache/course_lib. It may be deleted at any time; it need not exist yet."""
    return Path(os.environ.get("COURSE_CACHE") or Path.home() / ".cache" / "course_lib").expanduser()


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
