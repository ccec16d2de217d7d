"""GIST and RIST (Teh et al., CRV 2022): iterated self-training on human OR pseudo-labels, never on both at once.

Letters: D_L, D_U labelled and unlabelled pictures, H a held-out part of D_L; theta_k the network after stage k, y~ its labels.

    theta_0     supervised on D_L
    stage k     y~ = argmax P(x; theta_{k-1}) for all x of D_U, every pixel                             stage "labels-k"
                alpha = 1: L = CE on D_L, or alpha = 0: L = CE on (D_U, y~), from theta_{k-1} on        stages of other methods
    GIST        both branches are trained, and the one with the better mIoU on H stays: D_L is here without H
    RIST        alpha is drawn by the seed: half and half
    FIST        L = CE on D_L + CE on (D_U, y~), alpha = 1/2 but for the rate: what the others are compared with

A step on a pseudo-label repeats what the network says, and the areas of its surest classes grow from stage to stage
(`evaluation.area_ratios`); a stage on human labels reverses that. Our sources do not say on which pictures the paper chooses;
here they are never those that are scored.
"""

from dataclasses import dataclass

from course_lib.data.few_labels import held_share
from course_lib.methods.self_training import SelfTraining, SelfTrainingSettings
from course_lib.typed import AT_LEAST_1, in_range


@dataclass(frozen=True)
class RISTSettings(SelfTrainingSettings):
    """Of the plan; no paper or release at hand says how many stages there are."""

    rounds: int = 3  # ours: stages after the supervised one

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, rounds=AT_LEAST_1)


@dataclass(frozen=True)
class GISTSettings(RISTSettings):
    """And on what the better branch is chosen."""

    held_out: str = "1/5"  # ours: of the labelled pictures

    def __post_init__(self) -> None:
        super().__post_init__()
        held_share(self.held_out)


class GIST(SelfTraining):
    """Self-training in stages, each on labels or on pseudo-labels, whichever is better on held-out labelled pictures."""

    name = "gist"
    Settings = GISTSettings
    planned = True


class RIST(SelfTraining):
    """Self-training in stages, each on labels or on pseudo-labels by chance."""

    name = "rist"
    Settings = RISTSettings
    planned = True
