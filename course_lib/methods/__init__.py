"""One paper, one file: what each method adds to supervised training on the source.

A method is a module that owns its networks, optimisers and state. It has

    segmenter     the network that will be scored: image -> Prediction(features, logits, aux_logits)
    optimisers    by name; the loop sets their rates and steps them
    weights       the lambda of each loss; a loss that is not named weighs 1
    landmarks     the value a loss has when nothing is learnt yet, and what it means
    losses(source, target)
                  a generator: every dictionary it yields, name -> loss, is one backward pass; all optimisers step after
                  the last one. What comes after a `yield` runs when that backward pass is done.
    passes()      how often a step sends a batch through the segmenter, with and without a backward pass
"""

from course_lib.methods.adaptsegnet import AdaptSegNet, AdaptSegNetSettings
from course_lib.methods.base import Method, OptimiserSettings
from course_lib.methods.bida import BiDA, BiDASettings
from course_lib.methods.lars import LARS
from course_lib.methods.proca import ProCA, ProCASettings
from course_lib.methods.self_training import SelfTraining, SelfTrainingSettings
from course_lib.methods.simclr import SimCLR, SimCLRSettings
from course_lib.methods.source_only import NormalisationControl, SourceOnly, TargetOnly

__all__ = [
    "LARS",
    "AdaptSegNet",
    "AdaptSegNetSettings",
    "BiDA",
    "BiDASettings",
    "Method",
    "NormalisationControl",
    "OptimiserSettings",
    "ProCA",
    "ProCASettings",
    "SelfTraining",
    "SelfTrainingSettings",
    "SimCLR",
    "SimCLRSettings",
    "SourceOnly",
    "TargetOnly",
]
