"""What the system says of a file, and torch of a device, with what to do: "[Errno 20] Not a directory" helps nobody."""

import errno
import os
import re
from pathlib import Path

_REMEDIES = {
    errno.ENOENT: "Check the path; a folder above it, or what a link leads to, is not there.",
    errno.EACCES: "This user has no right to it: look at its permissions (`ls -ld`), or choose another place.",
    errno.EPERM: "This user has no right to it: look at its permissions (`ls -ld`), or choose another place.",
    errno.EROFS: "The disk can only be read. Choose a place on another disk.",
    errno.ENOSPC: "The disk is full. Make room, or choose a place on another disk.",
    errno.EDQUOT: "The quota of this user is used up. Make room, or choose a place on another disk.",
    errno.EFBIG: "The disk or a limit (`ulimit -f`) takes no file of this size. Make room, or choose a place on another disk.",
    errno.ENAMETOOLONG: "A system takes names of at most 255 bytes: choose a shorter one.",
    errno.ELOOP: "Links lead to one another in a circle. Remove the link, or choose another path.",
    errno.ENOTEMPTY: "The folder holds other files. Move them, or choose another folder.",
    errno.EMFILE: "Too many files are open: take fewer workers, or raise the limit (`ulimit -n`).",
    errno.EPIPE: "The program that reads the output has ended.",
}
_LOOP = re.compile("Symlink loop from '(.*)'")  # pathlib's own error, before Python 3.13
_OF_FOLDERS = (errno.ENOTDIR, errno.EEXIST)  # that could not be entered or made


def in_words(error: Exception) -> str:
    """The message of an error; of one that the system raised itself, the file, what the system said, and what to do.

    >>> in_words(FileNotFoundError(2, "No such file or directory", "gone.pt"))
    "Cannot use 'gone.pt': No such file or directory. Check the path; a folder above it, or what a link leads to, is not there."
    >>> in_words(ValueError("size = 3: give at least 16 pixels."))
    'size = 3: give at least 16 pixels.'
    """
    if (loop := _LOOP.fullmatch(str(error))) is not None and isinstance(error, RuntimeError):
        return in_words(OSError(errno.ELOOP, os.strerror(errno.ELOOP), loop[1]))
    if not isinstance(error, OSError) or error.strerror is None:  # which only the system's own errors have
        return str(error)
    path = error.filename2 or error.filename
    of_what = "a file" if path is None or isinstance(path, int) else repr(os.fsdecode(path))
    return f"Cannot use {of_what}: {error.strerror}. {remedy(error)}"


def remedy(error: OSError) -> str:
    """What to do, one or two sentences."""
    path = error.filename2 or error.filename
    if error.errno in _OF_FOLDERS and path is not None:
        if (blocked := _no_folder(Path(os.fsdecode(path)))) is not None:
            return f"{blocked}, and a folder is wanted there. Move it, or choose another folder."
        return "There is something of this name already. Move it, or choose another name."
    if error.errno == errno.EISDIR:
        return "It is a folder, and a file is wanted there. Move it, or choose another name."
    return _REMEDIES.get(error.errno, "Check the path, and the disk that it is on.")


def _no_folder(path: Path) -> str | None:
    """Which part of the path is no folder, and what it is."""
    for part in (path, *path.parents):
        if os.path.lexists(part):
            if part.is_symlink() and not part.exists():
                return f"{str(part)!r} is a link to {os.readlink(part)!r}, which is not there"
            return None if part.is_dir() else f"{str(part)!r} is a file"
    return None


def advised(error: Exception) -> str:
    """The message of an error that ends a command; of one that a loader's worker has sent with its traceback, the error alone.

    >>> advised(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    'CUDA out of memory. Choose a smaller size, crop or batch_size, or --set precision=bf16.'
    """
    text = in_words(error)
    first = text.partition(". ")[0].rstrip(".")
    if "out of memory" in text:  # torch's own error for every device; what follows its first sentence are addresses
        other = "--device cpu" if is_of_mps(error) else "--set precision=bf16"
        return f"{first}. Choose a smaller size, crop or batch_size, or {other}."
    if is_of_mps(error):
        fallback = os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK", "1")
        off = "" if fallback == "1" else f", or unset PYTORCH_ENABLE_MPS_FALLBACK (it is {fallback!r})"
        return f"{first}. Choose --device cpu{off}."
    return text.rstrip().rpartition(f"{type(error).__name__}: ")[2] if text.startswith("Caught ") else text


def is_of_mps(error: Exception) -> bool:
    """Whether torch says what Apple's MPS cannot do: an operation (NotImplementedError), a type (TypeError), a size."""
    return "MPS" in str(error) and isinstance(error, (RuntimeError, TypeError))
