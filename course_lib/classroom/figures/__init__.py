"""Pictures of the course. Each function takes tensors or arrays and returns one matplotlib Figure.

Figures are not registered with pyplot: a notebook shows the one that a cell ends with, a report saves it
(`figure.savefig("iou.png")`, no display needed), and nothing has to be closed.
"""

from course_lib.classroom.figures.bidirectional import accuracy_at_density, bias_arrows, label_history
from course_lib.classroom.figures.contrast import clusters, neighbours, similarities
from course_lib.classroom.figures.course import course_map, exercises
from course_lib.classroom.figures.curves import loss_curves
from course_lib.classroom.figures.features import feature_map, feature_scatter
from course_lib.classroom.figures.pictures import legend, overlay, show
from course_lib.classroom.figures.prototypes import kept_shares, kept_table, prototype_plane
from course_lib.classroom.figures.results import (
    confusion_change,
    corrected_and_newly_wrong,
    labels_curve,
    leaderboard,
    stage_seconds,
)
from course_lib.classroom.figures.scores import ablation, class_gains, confusion, iou_bars, iou_dots
from course_lib.classroom.figures.style import STYLE, use_style

__all__ = [
    "STYLE", "ablation", "accuracy_at_density", "bias_arrows", "class_gains", "clusters", "confusion", "confusion_change",
    "corrected_and_newly_wrong", "course_map", "exercises", "feature_map", "feature_scatter", "iou_bars", "iou_dots",
    "kept_shares", "kept_table", "label_history", "labels_curve", "leaderboard", "legend", "loss_curves", "neighbours",
    "overlay", "prototype_plane", "show", "similarities", "stage_seconds", "use_style",
]  # fmt: skip
