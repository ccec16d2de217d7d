"""Files that survive: written whole or not at all, and read without running code from them."""

import os
from pathlib import Path
from typing import Any

import torch

FORMAT = 1  # raised when an older reader could not understand a newer file


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and says what to do."""


def save_checkpoint(path: Path | str, content: dict[str, Any]) -> Path:
    """Write `content` (tensors, numbers, strings, lists, dictionaries) so that a crash leaves the old file or the new one.

    The bytes go to a temporary name beside `path`, reach the disk (fsync) and only then take the name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path | str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a file of `save_checkpoint`; nothing in it is executed (`weights_only=True`)."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}. `uda train ... --out DIR` writes DIR/last.pt.")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}); it is cut off, or not one. "
            "Take an older one of the same folder, or train again."
        ) from error
    if not isinstance(content, dict) or "segmenter" not in content:
        raise CheckpointError(f"{path} is a torch file, but no checkpoint of this library: it has no 'segmenter'.")
    if content.get("format", 0) > FORMAT:
        raise CheckpointError(f"{path} has format {content['format']}; this version reads up to {FORMAT}. Update course_lib.")
    return content
