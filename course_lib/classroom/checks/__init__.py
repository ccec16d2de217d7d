"""Checks of the exercises: they answer with a hint, never with a traceback, so "Run All" passes on empty stubs.

    checks.iou(my_iou)              # ○ not attempted / ✗ with a hint / ✓
    checks.iou(solution).require()  # raises unless it is right
    checks.ALL                      # name -> Check
"""

from course_lib.classroom.checks.adversarial import (
    adversarial_loss,
    discriminator_loss,
    entropy_map,
    output_map,
    poly_rate,
)
from course_lib.classroom.checks.bidirectional import (
    batch_prototypes,
    calibrate,
    dynamic_labels,
    forward_contrast,
    hybrid_labels,
)
from course_lib.classroom.checks.contrastive import cosine_matrix, nt_xent, pair_loss
from course_lib.classroom.checks.machinery import Case, Check, Result
from course_lib.classroom.checks.prototypes import class_prototypes, class_thresholds, prototype_contrast
from course_lib.classroom.checks.results import average_views, corrected_and_newly_wrong, paired_gain
from course_lib.classroom.checks.scores import confusion_matrix, iou, mean_iou, train_ids

ALL: dict[str, Check] = {
    check.name: check
    for check in (
        train_ids,
        confusion_matrix,
        iou,
        mean_iou,
        poly_rate,
        entropy_map,
        output_map,
        adversarial_loss,
        discriminator_loss,
        cosine_matrix,
        pair_loss,
        nt_xent,
        class_prototypes,
        prototype_contrast,
        class_thresholds,
        batch_prototypes,
        forward_contrast,
        calibrate,
        dynamic_labels,
        hybrid_labels,
        average_views,
        paired_gain,
        corrected_and_newly_wrong,
    )
}

__all__ = ["ALL", "Case", "Check", "Result", *ALL]
