"""Tensors from a file of another author: nothing in it is executed, and an error names what is wrong with it."""

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_lib.terminal import shown

COUNTER = ".num_batches_tracked"  # torch before 0.4.1 wrote none; nothing here reads them


def read_tensors(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A network's tensors by name, without `module.`, and the names of the entries beside them.

    They may lie in the file's dictionary itself or in one entry of it, whatever that is called. ProCA's two entries come
    as one: "feature_extractor.backbone.conv1.weight", "classifier.conv2d_list.0.weight".

    Raises:
        FileNotFoundError: where nothing is there. ValueError: for a file that cannot be read without running code from it,
            holds no tensors, those of several networks, or is a checkpoint of this library.
    """
    content = _read(path)
    holders = {k: v for k, v in content.items() if isinstance(v, dict) and any(isinstance(t, Tensor) for t in v.values())}
    if not holders:
        return _bare(content), []
    beside = [name for name in content if name not in holders]
    parts = [name for name in ("feature_extractor", "classifier") if name in holders]
    if "feature_extractor" in parts and len(parts) == len(holders):
        return {f"{part}.{name}": value for part in parts for name, value in _bare(holders[part]).items()}, beside
    if len(holders) > 1:
        raise ValueError(
            f"{path} holds the tensors of {len(holders)} networks: {few(holders)}. Save the one that is meant in a file "
            "of its own: torch.save(content[name], 'weights.pth')."
        )
    return _bare(next(iter(holders.values()))), beside


def _read(path: Path) -> dict[str, Any]:
    """The file's dictionary; nothing in it is executed."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Give the file that you fetched from the authors' page.")
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes the readers say
        if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL (\S+)", str(error))):
            raise ValueError(
                f"{path} holds an object of {found[1]} beside its tensors. To read it could run code, so it is refused. "
                "Save the tensors alone where its own code runs: torch.save(model.state_dict(), 'weights.pth')."
            ) from error
        raise ValueError(
            f"{path} cannot be read as weights ({type(error).__name__}{of_archive(error)}): it is cut off, "
            "damaged, or no file of torch. Fetch it again and compare the size."
        ) from error
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path} holds no tensors by name, but {kind(content)}. Give a file of a network's weights.")
    if "segmenter" in content:
        raise ValueError(
            f"{path} is a checkpoint of this library, not a published file. Score it with `uda evaluate {path} ...`; "
            "in Python, course_lib.experiments.train.load_network reads it."
        )
    return content


def of_archive(error: Exception) -> str:
    """A zip archive's error as the end of a message; "" for other errors, because those of torch fill a page."""
    return f": {error}" if isinstance(error, zipfile.BadZipFile) else ""


def check_archive(path: Path) -> None:
    """Raise zipfile.BadZipFile where a part of torch's archive is damaged, or where unpacking could take more than it has.

    torch stores parts as they are and reads others, too, without a look at their check sums: a few kilobytes of a compressed
    part could become gigabytes.
    """
    with zipfile.ZipFile(path) as parts:
        for part in parts.infolist():
            if part.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile(f"part {shown(part.filename)} is compressed, torch stores parts as they are")
        if (total := sum(part.file_size for part in parts.infolist())) > Path(path).stat().st_size:
            raise zipfile.BadZipFile(f"its parts promise {total} bytes, more than the file has")
        if (damaged := parts.testzip()) is not None:
            raise zipfile.BadZipFile(f"part {shown(damaged)} is damaged")


def _bare(state: dict[str, Any]) -> dict[str, Any]:
    """Without the `module.` that training in parallel writes before every name."""
    state = {str(name): value for name, value in state.items()}
    while all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def few(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    return ", ".join(map(shown, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def listed(problems: Mapping[str, Sequence[str]]) -> str:
    """Names by what is wrong with them, in words; "" where there is none.

    >>> listed({"missing": ["conv1.weight", "conv1.bias"], "unknown": [], "unfit": ["bn1.bias"]})
    '2 missing: conv1.weight, conv1.bias; 1 unfit: bn1.bias'
    """
    return "; ".join(f"{len(names)} {what}: {few(names)}" for what, names in problems.items() if names)


def kind(value: Any) -> str:
    """What a thing is, for an error's words."""
    return f"a {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")


def misfit(value: Any, wanted: Tensor) -> str:
    """Why a value of a file cannot be this tensor; "" where it can."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return f"{kind(value)}, wanted a tensor with values"
    if value.shape != wanted.shape:
        return f"{tuple(value.shape)}, wanted {tuple(wanted.shape)}"
    if value.is_floating_point() != wanted.is_floating_point():
        return f"{str(value.dtype).removeprefix('torch.')}, wanted {str(wanted.dtype).removeprefix('torch.')}"
    return "" if bool(torch.isfinite(value).all()) else "not finite"


def copies(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor in memory of its own: a file, or two stems with one start, may share it."""
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
