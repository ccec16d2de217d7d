"""ProCA: prototypical contrast adaptation (Jiang et al., ECCV 2022).

Letters: F_s, F_t features of a source and a target batch, O_s, O_t their logits; Y the source's labels, y~ the target's
pseudo-labels; p_c the prototype of class c among features, q_c among logits; tau the temperature.

    before      p_c, q_c = mean feature, mean logits of class c over the whole source            "Prototypes initialization"
    each step   y~ = argmax O_t where it is sure enough, else ignored
                p_c, q_c take in (F_t, y~) and (F_s, Y)                                           "Prototypes Updating"
                L = L_seg(O_s, Y) + lambda_feat (L^{s->s} + L^{t->s}) on F and p                  L_ContraFeat
                                  + lambda_out  (L^{s->s} + L^{t->s}) on O and q                  L_ContraOut

Adversarial alignment asks whether a feature could come from the source; this asks whether it could come from its own class
there. Afterwards `SelfTraining` learns from the labels that this network gives (Ada-ST).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from course_lib.data import Batch
from course_lib.losses import prototype_contrast
from course_lib.losses.prototype import Similarity, labels_at
from course_lib.methods.base import Method
from course_lib.methods.step import Looks, Losses, Stream
from course_lib.prototypes import ClassSums, Feed, PrototypeBank, Rule
from course_lib.pseudo_labels import Score, batch_thresholds, class_thresholds, confidence, threshold_labels
from course_lib.typed import SHARE, TEMPERATURE, WEIGHT, in_range


@dataclass(frozen=True)
class ProCASettings:
    """Constants of the method; defaults: the authors' released ones, but for `score`."""

    lambda_feat: float = 1.0  # [code]; 0: no contrast among features
    lambda_out: float = 1.0  # [code]; 0: none among logits
    # [code] divides cosines by 50: every P is within 4 % of 1/C, the loss within 0.04 of ln C, and its gradient is small;
    # at 0.1 the nearest wrong prototypes count most, as in SimCLR
    contrast_temperature: float = 50.0
    balanced: bool = False  # [code] and slides: a mean over pixels; True: over classes, then over each one's pixels
    similarity: Similarity = "cosine"  # [code]; the slides write p_c . F: "dot"
    # y~ of a step: where the score of the predicted class reaches `threshold`
    score: Score = "probability"  # SDCA, the parent code; "logit": ProCA's release, where 0.9 turns hardly a pixel away
    threshold: float = 0.9  # [code]
    # "class-wise": each class has its own threshold, found over the whole target before the first step (Ada-ST's rule);
    # "batch": likewise, but found again in every batch, so that a network that grows surer does not label more;
    # "static": the label files of an earlier network, which the one that learns from them cannot bend
    target_labels: Literal["threshold", "class-wise", "batch", "static"] = "threshold"
    target_share: float = 0.4  # class-wise, batch: the share of each class that is kept; [code] 1 - THRESHOLD_PERCENT
    target_cap: float = 0.9  # class-wise, batch: no threshold is higher; [code] of the labels of Ada-ST
    rule: Rule = "mean"  # [code] strict mean over every vector ever seen; "mix", "ema", "fixed"
    feed: Feed = "both"  # [code] whose batches move prototypes; the paper's table: "source", "both"
    prototype_momentum: float = 0.9  # of rule "ema": the weight of the old prototype; ours
    source_share: float = 0.5  # m of rule "mix"; ours (course_lib.prototypes.PrototypeBank)

    def __post_init__(self) -> None:
        in_range(self, lambda_feat=WEIGHT, lambda_out=WEIGHT, contrast_temperature=TEMPERATURE, threshold=(-1e6, 1e6),
                 target_share=SHARE, target_cap=(-1e6, 1e6), prototype_momentum=SHARE, source_share=SHARE)  # fmt: skip
        if self.target_labels in ("batch", "class-wise") and self.score != "probability":
            raise ValueError(f"target_labels={self.target_labels!r} wants score='probability', 0 to 1; got {self.score!r}.")


class ProCA(Method):
    """Train a segmenter on the source while every feature, of both domains, is drawn to the prototype of its class.

    Without `prepare` prototypes begin with the first batches (rule "fixed": none, contrast 0). The banks and thresholds are
    buffers of the method, so they are saved, moved and resumed with it; several processes share one set.
    """

    name = "proca"
    Settings = ProCASettings
    needs_labels = True
    offers = (("source", "target"),)

    @classmethod
    def streams(cls, settings: ProCASettings) -> dict[str, Stream]:
        return {"source": Stream("true"), "target": Stream("files" if settings.target_labels == "static" else "none")}

    def __init__(self, segmenter: nn.Module, *rest: Any, **others: Any) -> None:
        super().__init__(segmenter, *rest, **others)
        s, C = self.settings, segmenter.num_classes
        dims = {"feat": segmenter.feature_dim, "out": C}
        lambdas = {"feat": s.lambda_feat, "out": s.lambda_out}
        self.spaces = [space for space in dims if lambdas[space]]
        self.banks = nn.ModuleDict(
            {
                space: PrototypeBank(C, dims[space], s.rule, s.feed, s.prototype_momentum, s.source_share)
                for space in self.spaces
            }
        )
        self.register_buffer("thresholds", torch.full((C,), float(s.threshold)))
        for space in self.spaces:
            for side in ("source", "target"):
                self.weights[f"contrast_{space}_{side}"] = lambdas[space]
                self.landmarks[f"contrast_{space}_{side}"] = (math.log(C), f"ln {C}: all prototypes alike")

    def prepare(self, looks: Looks) -> None:
        """The prototypes of the whole source, float64 sums over all processes; of "class-wise" labels also their thresholds.

            p_c = sum_{n,i,j} F_{n,i,j} 1[Y_{n,i,j} = c] / sum_{n,i,j} 1[Y_{n,i,j} = c]
        """
        s, C = self.settings, len(self.thresholds)
        sums = {space: ClassSums(*bank.mean.shape[1:], bank.mean.device) for space, bank in self.banks.items()}
        for batch in looks("source"):
            P = self.segmenter(batch.image)
            Y = labels_at(batch.label, P.logits.shape[-2:])
            for space, part in sums.items():
                part.add(P.features if space == "feat" else P.logits, Y)
        for space, bank in self.banks.items():
            bank.initialise(sums[space])
        if s.target_labels == "class-wise":
            def read() -> Iterator[tuple[Tensor, Tensor]]:
                return (confidence(self.segmenter(batch.image).logits) for batch in looks("target"))

            self.thresholds.copy_(class_thresholds(read, C, 1 - s.target_share, s.target_cap, self.thresholds.device))

    def exchanged(self) -> dict[str, int]:
        feeds = 0 if self.settings.rule == "fixed" else 2 if self.settings.feed == "both" else 1
        C, D = zip(*(bank.mean.shape[1:] for bank in self.banks.values())) if self.banks else ((), ())
        return {"prototypes": feeds * sum(8 * c * (d + 1) for c, d in zip(C, D))}  # float64 sums and counts

    def pseudo_labels(self, logits: Tensor) -> Tensor:
        """y~: the predicted class of each place (N, h, w) where it is sure enough, 255 elsewhere; without gradient."""
        sure, prediction = confidence(logits.detach(), self.settings.score)
        if self.settings.target_labels == "batch":
            s, C = self.settings, len(self.thresholds)
            self.thresholds.copy_(batch_thresholds(sure, prediction, C, 1 - s.target_share, s.target_cap))
        return threshold_labels(sure, prediction, self.thresholds)

    def losses(self, source: Batch, target: Batch) -> Iterator[Losses]:
        s = self.settings
        P_s, P_t = self.segmenter(source.image), self.segmenter(target.image)
        Y = labels_at(source.label, P_s.logits.shape[-2:])
        if s.target_labels == "static":
            y = labels_at(target.label, P_t.logits.shape[-2:])                                # y~
        else:
            y = self.pseudo_labels(P_t.logits)

        losses = self.supervised(P_s, source.label)                                           # L_seg
        maps = {"feat": (P_s.features, P_t.features), "out": (P_s.logits, P_t.logits)}
        for space, bank in self.banks.items():
            F_s, F_t = maps[space]
            bank.update(F_t.detach(), y, "target")                                            # p_c <- ...
            bank.update(F_s.detach(), Y, "source")
            p, seen = bank.prototypes, bank.seen
            how = {"temperature": s.contrast_temperature, "similarity": s.similarity, "seen": seen, "balanced": s.balanced}
            losses[f"contrast_{space}_target"] = prototype_contrast(F_t, y, p, **how)         # L^{t->s}
            losses[f"contrast_{space}_source"] = prototype_contrast(F_s, Y, p, **how)         # L^{s->s}
        yield losses | self.terms({"source": source, "target": target}, source=P_s, target=P_t)
