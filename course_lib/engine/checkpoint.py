"""Run folders and their files: what a kill, a full disk or a torn file cannot lose, read without running code from them."""

import copy
import errno
import io
import os
import re
import warnings
from pathlib import Path
from typing import Any, TypedDict

import torch

from course_lib.engine.tensorboard import forget_events
from course_lib.files import is_temporary, read_json, temporary_name, write_whole
from course_lib.networks.weight_file import check_archive, of_archive
from course_lib.typed import checked

FORMAT = 2  # raised when an older reader could not understand a newer file


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and says what to do."""


class Chosen(TypedDict, total=False):
    """How the checkpoint was chosen among its run's candidates."""

    by: str
    step: int
    value: float | None


class Content(TypedDict, total=False):
    """The types of what a checkpoint holds, where it holds it; other entries belong to the code that reads them."""

    version: str
    recipe: dict
    code: dict[str, str]  # SHA-256 of files from outside this library, by name
    step: int
    segmenter: dict
    method: dict
    scored: str  # which of them is the result: "segmenter", or the name of a teacher, whose weights are in `method`
    optimisers: dict
    scaler: dict
    random: list
    pictures: dict
    choice: Chosen
    seconds: float
    tables: dict  # of prototypes


def save_checkpoint(path: Path | str, content: dict[str, Any]) -> Path:
    """Write `content` (tensors, numbers, strings, lists, dictionaries) so that a crash leaves the old file or the new one.

    Tensors are written as CPU tensors: the file is the same on whatever device the run was.
    Raises OSError naming the file when the disk is full or the folder cannot be written; the old file is then as it was.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **_on_host(content)}, buffer)
    return write_whole(path, buffer.getbuffer())


def _on_host(content: Any) -> Any:
    """`content` with all its tensors on the CPU."""
    if isinstance(content, torch.Tensor):
        return content.cpu()
    if isinstance(content, dict):
        changed = copy.copy(content)  # the type and the attributes of a state_dict stay
        changed.update((key, _on_host(value)) for key, value in content.items())
        return changed
    return type(content)(map(_on_host, content)) if isinstance(content, (list, tuple)) else content


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a file of `save_checkpoint`, its tensors onto the CPU; nothing in it is executed (`weights_only=True`).

    The caller copies them to a device: not all devices have the types that a file holds (MPS: no float64).

    Raises CheckpointError naming the file if it is missing, cut off, damaged (its check sums are compared), not a
    checkpoint of this library, of a newer version, or with values of other types (`Content`).
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the checkpoint in it, for example {path / 'best.pt'}.")
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}. `uda train ... --out DIR` writes DIR/best.pt and DIR/last.pt.")
    try:
        check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes the readers say
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: of a file that is cut off
            raise OSError(
                f"The system cannot read {path}: {error.strerror}. Look at its permissions (`ls -l`) and its disk; the file "
                "may be whole."
            ) from error
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}{of_archive(error)}): it is cut off, "
            "damaged, or not one. Take an older one of the same folder, or train again."
        ) from error
    if not isinstance(content, dict) or "segmenter" not in content:
        raise CheckpointError(f"{path} is a torch file, but no checkpoint of this library: it has no 'segmenter'.")
    if not isinstance(content.get("format"), int) or content["format"] > FORMAT:
        raise CheckpointError(
            f"{path} has format {content.get('format')}; this version reads 1 to {FORMAT}. Update course_lib."
        )
    try:
        content = checked(Content, content, str(path))
        if content.get("step", 0) < 0:
            raise ValueError(f"{path}: 'step' is {content['step']}, wanted 0 or more.")
    except ValueError as error:
        raise CheckpointError(f"{error} No run wrote it so: take another checkpoint.") from error
    return content


class RunFolder:
    """The folder OUT of a training run: its last checkpoints, the newest and the chosen one under fixed names, its log.

        step_0000300.pt    everything at step 300; the newest `keep` of them stay
        last.pt  best.pt   second names (no copies) of the newest one and of the one that was chosen
        log.jsonl  recipe.json
        tensorboard/       event files, with --tensorboard
    """

    def __init__(self, folder: Path | str, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; a run that can be resumed keeps at least 1 checkpoint (2 survive a torn one).")
        self.folder, self.keep = Path(folder).expanduser(), keep
        if self.folder.exists() and not self.folder.is_dir():
            raise CheckpointError(f"{self.folder} is a file; a run wants a folder of its own. Choose another --out.")
        self.last, self.best, self.log = (self.folder / name for name in ("last.pt", "best.pt", "log.jsonl"))
        self.recipe, self.events = self.folder / "recipe.json", self.folder / "tensorboard"

    def path_of(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.folder / f"step_{step:07d}.pt"

    def checkpoints(self) -> list[Path]:
        """The checkpoints that are there, the newest first; `last.pt` alone where a folder has nothing else."""
        found = self._steps()
        return [found[step] for step in sorted(found, reverse=True)] or ([self.last] if self.last.exists() else [])

    def _steps(self) -> dict[int, Path]:
        matches = ((re.fullmatch(r"step_(\d+)\.pt", path.name), path) for path in self.folder.glob("step_*.pt"))
        return {int(match[1]): path for match, path in matches if match}

    def holds(self) -> list[Path]:
        """What a run has left here and a new one would lose."""
        return self.checkpoints() or [path for path in (self.best, self.log) if path.exists()]

    def refuse_foreign(self) -> None:
        """Raise CheckpointError where files under the names of a run are there that no run wrote.

        A run's files have its recipe.json beside them; without it (somebody copied checkpoints alone) they must be
        checkpoints of this library.
        """
        if self.recipe.exists():
            if not self._is_recipe():
                raise CheckpointError(
                    f"{self.recipe} is there and is no recipe of a run, so it is not overwritten. Choose another --out."
                )
            return
        steps = list(self._steps().values())
        for path in dict.fromkeys([*steps, self.last, self.best, self.log]):
            if not os.path.lexists(path):
                continue
            try:
                load_checkpoint(path)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{path} is there, and no recipe.json of a run beside it: no run wrote it, so it is neither overwritten "
                    "nor deleted. Choose another --out, or move that file away."
                ) from error

    def _is_recipe(self) -> bool:
        try:
            return {"name", "method", "loop"} <= read_json(self.recipe).keys()
        except (OSError, ValueError):
            return False

    def prepare(self) -> None:
        """Make the folder and try whether it can be written, before there is anything to lose."""
        write_whole(temporary_name(self.folder / "write"), b"").unlink()

    def save(self, step: int, content: dict[str, Any], best: bool = False) -> Path:
        """Write the checkpoint of a step, rename `last.pt` (and `best.pt`) to it, and drop those beyond the newest `keep`."""
        path = save_checkpoint(self.path_of(step), content)
        second_name(path, self.last)
        if best:
            self.name_best(step)
        for old in self.checkpoints()[self.keep :]:
            old.unlink(missing_ok=True)
        return path

    def name_best(self, step: int) -> None:
        """Let `best.pt` be the checkpoint of a step."""
        path = self.path_of(step)
        second_name(path if path.exists() else self.last, self.best)

    def go_back(self, step: int) -> None:
        """Remove what lies beyond `step` (torn checkpoints) and what a killed process left half-written."""
        beyond = [path for number, path in self._steps().items() if number > step]
        for path in (*beyond, *self.unfinished()):
            path.unlink(missing_ok=True)

    def newest(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, None in a folder without any. Those refused are named in a warning.

        Raises CheckpointError if there are checkpoints and none can be read.
        """
        refused = []
        for path in self.checkpoints():
            try:
                content = load_checkpoint(path)
                if "step" not in content:
                    raise CheckpointError(f"{path} holds a network, but no step to go on from.")
            except CheckpointError as error:
                refused.append(str(error))
                continue
            for message in refused:
                warnings.warn(f"{message} Going on from {path.name} (step {content['step']}).", stacklevel=2)
            return content
        if refused:
            raise CheckpointError(f"No checkpoint in {self.folder} can be read. " + " ".join(refused))
        return None

    def clear(self) -> None:
        """Remove what a run wrote: checkpoints, log, event files, and what a killed process left half-written.

        recipe.json goes last: a kill on the way leaves a folder that is still known as a run's.
        """
        forget_events(self.events)
        for path in (*self._steps().values(), self.last, self.best, self.log, *self.unfinished(), self.recipe):
            path.unlink(missing_ok=True)

    def unfinished(self) -> list[Path]:
        """Files that a killed process was writing."""
        return [path for path in self.folder.glob(".*.tmp") if is_temporary(path)]


def second_name(path: Path, name: Path) -> None:
    """Let `name` be the file `path`, at once: a hard link, or a copy on a file system that has none."""
    temporary = temporary_name(name)
    try:
        os.link(path, temporary)
    except OSError:
        write_whole(name, path.read_bytes())
        return
    os.replace(temporary, name)
    temporary.unlink(missing_ok=True)  # it stays when both were names of one file already
