"""The loss functions of the papers: pure tensor code that can be copied into any project, together with `ranks`."""

from course_lib.losses.adversarial import domain_loss, probabilities
from course_lib.losses.berhu import berhu
from course_lib.losses.bidirectional import bidirectional_contrast
from course_lib.losses.distribution_contrast import bank_contrast, distribution_contrast, uniform_regulariser
from course_lib.losses.entropy import entropy
from course_lib.losses.feature_distance import feature_distance, label_down
from course_lib.losses.lovasz import lovasz_softmax
from course_lib.losses.memory_bank import MemoryBank
from course_lib.losses.memory_contrast import memory_contrast
from course_lib.losses.nt_xent import nt_xent
from course_lib.losses.pair_contrast import pair_contrast
from course_lib.losses.patch_contrast import patch_contrast
from course_lib.losses.prototype import prototype_contrast
from course_lib.losses.region_contrast import region_contrast
from course_lib.losses.segmentation import cross_entropy, upsample

__all__ = [
    "MemoryBank", "bank_contrast", "berhu", "bidirectional_contrast", "cross_entropy", "distribution_contrast",
    "domain_loss", "entropy", "feature_distance", "label_down", "lovasz_softmax", "memory_contrast", "nt_xent",
    "pair_contrast", "patch_contrast", "probabilities", "prototype_contrast", "region_contrast", "uniform_regulariser",
    "upsample",
]  # fmt: skip
