"""The loss functions of the papers: pure tensor code that can be lifted into any project (nothing here imports the rest)."""

from course_lib.losses.adversarial import domain_loss, probabilities
from course_lib.losses.segmentation import cross_entropy, upsample

__all__ = ["cross_entropy", "domain_loss", "probabilities", "upsample"]
