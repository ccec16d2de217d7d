"""The room that owns time: the training loop, precision, devices, progress, log and checkpoints."""

from course_lib.engine.checkpoint import load_checkpoint, save_checkpoint
from course_lib.engine.loop import LoopSettings, poly, train
from course_lib.engine.precision import Precision, choose_device, deterministic, seed_everything
from course_lib.engine.progress import JsonLines, progress

__all__ = [
    "JsonLines",
    "LoopSettings",
    "Precision",
    "choose_device",
    "deterministic",
    "load_checkpoint",
    "poly",
    "progress",
    "save_checkpoint",
    "seed_everything",
    "train",
]
