"""Evaluation: confusion counts, IoU, multi-scale testing, scores of a data set, label maps of pictures."""

from course_lib.evaluation.confusion import Confusion
from course_lib.evaluation.multiscale import SCALES, multiscale_probabilities
from course_lib.evaluation.predict import predict
from course_lib.evaluation.scoring import Scores, evaluate, predicted_ids, reestimate_statistics

__all__ = [
    "SCALES",
    "Confusion",
    "Scores",
    "evaluate",
    "multiscale_probabilities",
    "predict",
    "predicted_ids",
    "reestimate_statistics",
]
