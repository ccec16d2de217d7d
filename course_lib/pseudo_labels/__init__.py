"""Pseudo-labels: predicted labels, from which a network learns on pictures that have none. Pure tensor code.

    thresholds   static labels: the classifier's prediction where it is sure enough, class by class, picture by picture
    dynamic      dynamic labels: the nearest calibrated prototype, in the iteration that uses them; hybrid labels: both
    weights      how much the labels of a mean teacher count, from the batch in training
    balance      weights of classes from the labels and pseudo-labels of the last steps
    quality      density and accuracy, where the truth is known

All labels are train ids, 255 where there is none.
"""

from course_lib.pseudo_labels.balance import ClassBalance
from course_lib.pseudo_labels.dynamic import calibrate, dynamic_labels, hybrid_labels, labels_from
from course_lib.pseudo_labels.quality import LabelQuality, accuracy_by_density, density_accuracy
from course_lib.pseudo_labels.thresholds import (
    IGNORE,
    ClassThresholds,
    Score,
    any_class_labels,
    batch_thresholds,
    class_thresholds,
    confidence,
    picture_labels,
    threshold_labels,
)
from course_lib.pseudo_labels.weights import (
    ClassQuantiles,
    Labeller,
    LabelWeightSettings,
    batch_weight,
    picture_weight,
    ramp,
)

__all__ = [
    "IGNORE", "ClassBalance", "ClassQuantiles", "ClassThresholds", "LabelQuality", "LabelWeightSettings", "Labeller", "Score",
    "accuracy_by_density", "any_class_labels", "batch_thresholds", "batch_weight", "calibrate", "class_thresholds",
    "confidence", "density_accuracy", "dynamic_labels", "hybrid_labels", "labels_from", "picture_labels", "picture_weight",
    "ramp", "threshold_labels",
]  # fmt: skip
