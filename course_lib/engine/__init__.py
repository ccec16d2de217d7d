"""Running a training: the loop, precision, devices, progress, log, checkpoints and their folder."""

from course_lib.engine.checkpoint import CheckpointError, RunFolder, load_checkpoint, save_checkpoint
from course_lib.engine.lock import FolderInUse, RunLock
from course_lib.engine.loop import LoopSettings, NonFiniteLoss, cosine, poly, rate_at, train
from course_lib.engine.memory import PeakMemory
from course_lib.engine.precision import Precision, choose_device, deterministic, seed_everything
from course_lib.engine.progress import JsonLines, progress
from course_lib.engine.stopping import Stopped, StopRequest

__all__ = [
    "CheckpointError", "FolderInUse", "JsonLines", "LoopSettings", "NonFiniteLoss", "PeakMemory", "Precision", "RunFolder",
    "RunLock", "StopRequest", "Stopped", "choose_device", "cosine", "deterministic", "load_checkpoint", "poly", "progress",
    "rate_at", "save_checkpoint", "seed_everything", "train",
]  # fmt: skip
