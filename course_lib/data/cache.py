"""Where things are kept that are made once and read often."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache: $COURSE_CACHE, or ~/.cache/course_lib. It may be deleted at any time; it need not exist yet."""
    return Path(os.environ.get("COURSE_CACHE") or Path.home() / ".cache" / "course_lib")
