"""The log of a run as TensorBoard shows it: the same records, written twice."""

import re
from pathlib import Path

from course_lib.engine.progress import JsonLines
from course_lib.extras import require

OURS = ".uda"  # at the end of an event file's name: which ones a run may remove


class TensorBoardLog(JsonLines):
    """A `JsonLines` that also writes each record as scalars into an event file in `folder`: `lr`, `losses/NAME`, by step.

    `rewind` writes the whole event file again, from the log: a resumed run has each step once, whatever a kill left of its
    event file, and also the steps from before the file was asked for.
    """

    def __init__(self, path: Path | str | None, folder: Path) -> None:
        """Raises ModuleNotFoundError without the extra `tensorboard`."""
        require("tensorboard", ("tensorboard",), "`--tensorboard`")
        super().__init__(path)
        self.folder = folder
        self._writer = None

    def write(self, record: dict) -> None:
        super().write(record)
        self._follow(record)
        self._writer.flush()

    def rewind(self, step: int) -> None:
        super().rewind(step)
        self.close()
        forget_events(self.folder)
        for record in self.records:
            self._follow(record)
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _follow(self, record: dict) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(self.folder, filename_suffix=OURS)
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])


def scalars(record: dict, prefix: str = "") -> dict[str, float]:
    """The numbers of a record by name, those of an inner dictionary with its name before them; the step left out.

    >>> scalars({"step": 10, "lr": 0.5, "losses": {"segmentation": 2.0}})
    {'lr': 0.5, 'losses/segmentation': 2.0}
    """
    found = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= scalars(value, f"{prefix}{name}/")
        elif name != "step":
            found[prefix + name] = value
    return found


def forget_events(folder: Path) -> None:
    """Remove the event files that runs wrote into `folder`; others stay."""
    for path in folder.glob(f"*{OURS}"):
        if re.fullmatch(rf"events\.out\.tfevents\..+{re.escape(OURS)}", path.name):
            path.unlink(missing_ok=True)
