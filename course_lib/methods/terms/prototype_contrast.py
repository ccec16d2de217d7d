"""ProCA's and BiDA's contrast beside a mean teacher: pixels of both domains are drawn to the prototypes of their classes.

Letters: x_S, y_S source pictures and their labels; x_T target pictures, y~ the teacher's labels for them and q their weights;
F, O features and logits of the student, F', O' of the teacher, for source (S) and target (T); p_c the prototype of class c
among features, q_c among logits, kept from batch to batch; rho_S, rho_T prototypes of this batch alone; tau the temperature.

    each step   F'_S, O'_S from the plain x_S,  F'_T, O'_T from the plain x_T,  F_T, O_T from colours(x_T)
                y~ <- ignored where q = 0
    "prototype"       p_c take in (F'_T, y~) and (F'_S, y_S), q_c likewise (O'_T, y~) and (O'_S, y_S)
                      L = lambda_feat (L(F_S, y_S; p) + L(F_T, y~; p)) + lambda_out (L(O_S, y_S; q) + L(O_T, y~; q))
    "bidirectional"   rho_S = mean of F'_S class by class, rho_T = mean of F'_T
                      L = lambda_fc L_FC(F_T, y~; rho_S) + lambda_bc L_BC(F_S, y_S; rho_T)

The losses are those of the methods `proca` and `bida` (losses/prototype.py, losses/bidirectional.py). Three things differ:
labels come from the teacher of the same step, not from a threshold or from files; prototypes are of the teacher's features (the
student's own: a setting); no look at the whole source comes first, so prototypes begin with the first batches.

F_T comes from a forward pass of the term over target pictures, in the backward pass of the source. It is not that of the mixed
pictures: a method has these in another backward pass, and half of their pixels are the source's. A teacher with running
statistics takes them from the source pictures, too, that it sees here.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from course_lib.data import NORMALISATIONS
from course_lib.data.colours import Photometric
from course_lib.losses import bidirectional_contrast, prototype_contrast
from course_lib.losses.inputs import IGNORE
from course_lib.losses.prototype import Similarity, labels_at
from course_lib.methods.step import Losses, Passes, Step
from course_lib.methods.supervision import recoloured
from course_lib.methods.terms.base import Term, TermSettings
from course_lib.networks import Prediction
from course_lib.prototypes import Feed, PrototypeBank
from course_lib.typed import SHARE, TEMPERATURE, WEIGHT, checked, in_range

Kind = Literal["prototype", "bidirectional"]
Owner = Literal["student", "teacher"]
KeptRule = Literal["mean", "ema", "mix"]  # of PrototypeBank; "fixed" wants a look at the whole source


@dataclass(frozen=True)
class PrototypeContrastSettings(TermSettings):
    """Defaults are those of `ProCASettings`, `BiDASettings` and `DACSSettings`, where these have the setting."""

    kind: Kind = "prototype"  # "prototype": ProCA; "bidirectional": BiDA
    prototypes: Owner = "teacher"  # ours: whose features are averaged; [code] ProCA, BiDA: "student"
    # [code] BiDA. ProCA's release divides by 50: the loss is then within 0.04 of ln C, whatever the features are
    contrast_temperature: float = 0.1
    balanced: bool = False  # [code] both, a mean over pixels; True: over classes, then over each one's pixels
    target_photometric: Photometric = "jitter"  # [code] DACS, of the mixed pictures; "none": x_T as the teacher sees it
    target_blur: float = 0.5  # [code] DACS, likewise
    # kind "prototype"
    lambda_feat: float = 1.0  # [code] ProCA; 0: no contrast among features
    lambda_out: float = 1.0  # [code] ProCA; 0: none among logits
    similarity: Similarity = "cosine"  # [code] ProCA; the slides write p_c . F: "dot"
    rule: KeptRule = "mean"  # [code] ProCA: of every vector ever seen; "ema" forgets old ones
    feed: Feed = "both"  # [code] ProCA: whose batches are taken in; "source": as in SePiCo
    prototype_momentum: float = 0.9  # of "ema": the weight of the old prototype; ours, as for ProCA
    source_share: float = 0.5  # of "mix": m of the source; ours, as for ProCA
    # kind "bidirectional"
    lambda_fc: float = 0.2  # [code] BiDA, GTA5; 0 for SYNTHIA
    lambda_bc: float = 0.2  # [code] BiDA
    overlap_only: bool = True  # [code] BiDA: classes that both domains show
    through_prototypes: bool = True  # [code] BiDA: gradient flows through rho; the teacher's have none
    pairwise: bool = True  # [code] BiDA: source picture k with target picture k

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, hint in (("kind", Kind), ("prototypes", Owner), ("target_photometric", Photometric),
                           ("similarity", Similarity), ("rule", KeptRule), ("feed", Feed)):  # fmt: skip
            checked(hint, getattr(self, name), f"terms.prototype_contrast.{name}")
        in_range(self, contrast_temperature=TEMPERATURE, target_blur=SHARE, lambda_feat=WEIGHT, lambda_out=WEIGHT,
                 prototype_momentum=SHARE, source_share=SHARE, lambda_fc=WEIGHT, lambda_bc=WEIGHT)  # fmt: skip
        names = ("lambda_feat", "lambda_out") if self.kind == "prototype" else ("lambda_fc", "lambda_bc")
        if not any(getattr(self, name) for name in names):
            raise ValueError(
                f"terms.prototype_contrast with kind={self.kind!r} has {names[0]}=0 and {names[1]}=0: no loss is left. Give "
                "one a weight, or leave the term out."
            )

    @property
    def teaches_source(self) -> bool:
        """Whether the teacher has to see the source pictures."""
        wanted = self.feed != "target" if self.kind == "prototype" else self.lambda_fc > 0
        return self.prototypes == "teacher" and wanted


class PrototypeContrast(Term):
    """Pixels of both domains near to prototypes (ProCA, BiDA), for methods with a teacher.

    Its prototypes are in the state; all processes share one set.

    Losses: "feat_target", "feat_source", "out_target", "out_source"; or "forward", "backward", times their lambdas. Where
    no pixel counts a loss is 0, with zero gradient.
    """

    name = "prototype_contrast"
    Settings = PrototypeContrastSettings
    reads, taught = ("source",), True

    def __init__(self, segmenter: nn.Module, settings: PrototypeContrastSettings | None = None) -> None:
        super().__init__(segmenter, settings)
        s, C = self.settings, segmenter.num_classes
        self.normalisation = NORMALISATIONS[segmenter.normalisation]
        self.lambdas = {"feat": s.lambda_feat, "out": s.lambda_out} if s.kind == "prototype" else {}
        dims = {"feat": segmenter.feature_dim, "out": C}
        self.banks = nn.ModuleDict(
            {
                space: PrototypeBank(C, dims[space], s.rule, s.feed, s.prototype_momentum, s.source_share)
                for space, weight in self.lambdas.items()
                if weight
            }
        )

    def forward(self, P: dict[str, Prediction], step: Step) -> Losses:
        s, t = self.settings, step.taught
        x_T = recoloured(t.image, self.normalisation, s.target_photometric, s.target_blur, step.numbers)
        student = {"target": self.segmenter(x_T), "source": P["source"]}                     # F_T, O_T and F_S, O_S
        labels = {"target": torch.where(t.weight > 0, t.label, IGNORE), "source": step.batches["source"].label}  # y~, y_S
        owner = student
        if s.prototypes == "teacher":
            owner = {"target": t.prediction}                                                 # F'_T, O'_T
            if s.teaches_source:
                owner["source"] = t.teacher(t.source)                                        # F'_S, O'_S
        return (self._kept if s.kind == "prototype" else self._bidirectional)(student, labels, owner)

    def _kept(self, student: dict[str, Prediction], labels: dict[str, Tensor], owner: dict[str, Prediction]) -> Losses:
        s, losses = self.settings, {}
        for space, bank in self.banks.items():
            for domain, P in owner.items():
                new = _maps(P, space).detach()
                bank.update(new, labels_at(labels[domain], new.shape[-2:]), domain)          # p_c, q_c <- ...
            how = {"temperature": s.contrast_temperature, "similarity": s.similarity, "balanced": s.balanced}
            p, seen = bank.prototypes, bank.seen
            for domain, P in student.items():
                F = _maps(P, space)
                y = labels_at(labels[domain], F.shape[-2:])
                losses[f"{space}_{domain}"] = self.lambdas[space] * prototype_contrast(F, y, p, seen=seen, **how)
        return losses

    def _bidirectional(self, student: dict[str, Prediction], labels: dict[str, Tensor], owner: dict[str, Prediction]) -> Losses:
        """With the teacher's prototypes each direction is a call of its own: the student's features of one domain in each."""
        s, losses = self.settings, {}

        def contrast(source: Prediction, target: Prediction) -> tuple[Tensor, Tensor]:
            return bidirectional_contrast(
                source.features, labels["source"], target.features, labels["target"], self.segmenter.num_classes,
                s.contrast_temperature, s.overlap_only, s.through_prototypes, s.pairwise, s.balanced,
            )  # fmt: skip

        both = contrast(student["source"], student["target"]) if s.prototypes == "student" else None
        if s.lambda_fc:
            losses["forward"] = s.lambda_fc * (both or contrast(owner["source"], student["target"]))[0]       # L_FC
        if s.lambda_bc:
            losses["backward"] = s.lambda_bc * (both or contrast(student["source"], owner["target"]))[1]      # L_BC
        return losses

    def passes(self) -> Passes:
        return Passes(trained=1, frozen=int(self.settings.teaches_source))


def _maps(P: Prediction, space: str) -> Tensor:
    return P.features if space == "feat" else P.logits
