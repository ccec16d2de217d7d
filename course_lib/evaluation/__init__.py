"""Evaluation: confusion counts, IoU, multi-scale testing, scores of a data set, label maps of pictures."""

from course_lib.evaluation.confusion import Confusion
from course_lib.evaluation.labelling import PseudoLabelSettings, write_pseudo_labels
from course_lib.evaluation.multiscale import SCALES, multiscale_probabilities
from course_lib.evaluation.predict import predict
from course_lib.evaluation.probe import ClassPictures, ProbeScores, ProbeSettings, probe, read_classes
from course_lib.evaluation.scoring import Scores, area_ratios, evaluate, ids_of, predicted_ids, reestimate_statistics
from course_lib.evaluation.selection import information

__all__ = [
    "SCALES", "ClassPictures", "Confusion", "ProbeScores", "ProbeSettings", "PseudoLabelSettings", "Scores", "area_ratios",
    "evaluate", "ids_of", "information", "multiscale_probabilities", "predict", "predicted_ids", "probe", "read_classes",
    "reestimate_statistics", "write_pseudo_labels",
]  # fmt: skip
