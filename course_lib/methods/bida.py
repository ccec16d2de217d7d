"""BiDA: bi-directional contrastive learning (Lee et al., ECCV 2022).

Letters: f_S, f_T features of a source and a target batch, P_S, P_T predictions; Y the source's labels; y_F, y_D, y_T the
target's static, dynamic and hybrid pseudo-labels; rho(c) prototype of class c of this iteration, mu(c) its moving average.

    L_base = CE(P_S, Y) + lambda_static CE(P_T, y_F) + lambda_entropy E(P_S) + lambda_entropy_target E(P_T)
    each step   rho_S, and rho_S->T = rho_S + xi  with  xi = mu_T - mu_S          "Class-wise domain bias"
                y_D = the class of the nearest rho_S->T, where nearer than T      "Dynamic pseudo labeling"
                y_T = y_D where there is one, else y_F                            "Hybrid pseudo labels"
                mu_S, mu_T take in (f_S, Y) and (f_T, y_T)                        "Pseudo label update"
                L = L_base + lambda_fc L_FC(f_T, y_T; rho_S) + lambda_bc L_BC(f_S, Y; rho_T)

y_F are label files that an earlier network wrote (`evaluation.write_pseudo_labels`), renewed at the start of every round. The
released code computes dynamic labels and drops them, and has no mu, xi and y_T: what is here follows the slides.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count
from typing import Any, Literal

import torch
from torch import Tensor, nn

from course_lib.data import Batch
from course_lib.losses import bidirectional_contrast, entropy
from course_lib.losses.bidirectional import batch_prototypes
from course_lib.losses.inputs import IGNORE
from course_lib.losses.prototype import labels_at
from course_lib.methods.base import Method
from course_lib.methods.step import Looks, Losses, Stream
from course_lib.methods.supervision import supervised_loss
from course_lib.networks import Prediction
from course_lib.prototypes import PrototypeBank
from course_lib.pseudo_labels import LabelQuality, calibrate, dynamic_labels, hybrid_labels
from course_lib.typed import COUNT, SHARE, TEMPERATURE, WEIGHT, in_range

KINDS = ("static", "dynamic, uncalibrated", "dynamic", "hybrid")  # of target labels: y_F, y_D by rho_S, y_D by rho_S->T, y_T


@dataclass(frozen=True)
class BiDASettings:
    """Constants of the method; defaults: the authors' released ones for GTA5, and the slides' where the release has nothing."""

    lambda_static: float = 0.3  # [code] of CE(P_T, y_F)
    lambda_entropy: float = 0.4  # [code] of E(P_S)
    lambda_entropy_target: float = 0.12  # [code] 0.4 * 0.3, of E(P_T)
    double_softmax: bool = False  # [code] True: an entropy whose softmax is taken twice
    lambda_fc: float = 0.2  # [code] GTA5; 0 for SYNTHIA
    lambda_bc: float = 0.2  # [code]
    tau: float = 0.1  # [code] of both contrasts
    overlap_only: bool = True  # [code] classes that both domains show
    through_prototypes: bool = True  # [code] gradient flows through rho
    pairwise: bool = True  # [code] source picture k with target picture k
    by_class: bool = False  # [code] and slides: a mean over pixels; True: over classes, then over each one's pixels
    dynamic: Literal["none", "uncalibrated", "calibrated"] = "calibrated"  # [slides]; [code] none
    dynamic_prototypes: Literal["batch", "average"] = "batch"  # [slides] rho_S + xi; "average": mu_S + xi = mu_T
    # T: no reachable source gives it; ours, from MiniStreet's features alone (benchmarks/results/bida_design.md)
    dynamic_threshold: float = 0.9
    bank_momentum: float = 0.99  # lambda of the moving averages: no reachable source gives it; ours
    # batches of a round before its first dynamic labels; ours: averages of few batches are no domain bias
    dynamic_after: int = 0
    # rounds: how often the static labels are renewed by the newest network
    rounds: int = 10  # [code]
    round_rate: float = 0.5  # [code] the learning rate of a round, in that of the round before

    @property
    def uses_dynamic(self) -> bool:
        """Whether dynamic labels are made at all: without a contrast nothing reads them, and the averages stay empty."""
        return self.dynamic != "none" and bool(self.lambda_fc or self.lambda_bc)

    def __post_init__(self) -> None:
        if self.dynamic not in ("none", "uncalibrated", "calibrated") or self.dynamic_prototypes not in ("batch", "average"):
            raise ValueError(
                f"dynamic is {self.dynamic!r} and dynamic_prototypes {self.dynamic_prototypes!r}; choose none, uncalibrated or "
                "calibrated, and batch or average."
            )
        in_range(self, lambda_static=WEIGHT, lambda_entropy=WEIGHT, lambda_entropy_target=WEIGHT, lambda_fc=WEIGHT,
                 lambda_bc=WEIGHT, tau=TEMPERATURE, dynamic_threshold=(-2.0, 2.0), bank_momentum=SHARE, dynamic_after=COUNT,
                 rounds=(1, 1000), round_rate=(1e-6, 1.0))  # fmt: skip


class BiDA(Method):
    """Train a segmenter while the pixels of each domain are drawn to the other domain's prototypes.

    The moving averages are buffers of the method, so they are saved, moved and resumed with it; several processes share one
    set. They begin with the first batches, in every round again: a round takes over the segmenter alone.
    """

    name = "bida"
    Settings = BiDASettings
    needs_labels = True
    offers = (("source", "target"),)

    @classmethod
    def streams(cls, settings: BiDASettings) -> dict[str, Stream]:
        return {"source": Stream("true"), "target": Stream("files")}

    def __init__(self, segmenter: nn.Module, *rest: Any, **others: Any) -> None:
        super().__init__(segmenter, *rest, **others)
        s, C = self.settings, segmenter.num_classes
        self.mu_S = PrototypeBank(C, segmenter.feature_dim, "ema", "source", s.bank_momentum)
        self.mu_T = PrototypeBank(C, segmenter.feature_dim, "ema", "target", s.bank_momentum)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.weights |= {
            "static": s.lambda_static, "entropy": s.lambda_entropy, "entropy_target": s.lambda_entropy_target,
            "forward": s.lambda_fc, "backward": s.lambda_bc,
        }  # fmt: skip
        self.landmarks["static"] = self.landmarks["segmentation"]

    def see(self, image: Tensor, domain: str) -> Prediction:
        """The segmenter's prediction; one with a stem for each domain gets the domain as an argument."""
        own_stems = getattr(getattr(self.segmenter, "form", None), "domain_stem", False)
        return self.segmenter(image, domain=domain) if own_stems else self.segmenter(image)

    @torch.no_grad()
    def dynamic(self, f_S: Tensor, Y: Tensor, f_T: Tensor, kind: str | None = None) -> Tensor:
        """y_D of a batch: features (N, D, h, w), source labels (N, H, W) -> (N, h, w), 255 where there is none.

        kind: "calibrated" or "uncalibrated"; None: the settings'.
        """
        kind = kind or self.settings.dynamic
        if self.settings.dynamic_prototypes == "batch":
            Y = labels_at(Y, f_S.shape[-2:]).flatten(1).long()
            rho, there = batch_prototypes(f_S.flatten(2), Y, self.segmenter.num_classes)
        else:
            rho, there = self.mu_S.prototypes, self.mu_S.seen
        if kind == "calibrated":
            known = self.mu_S.seen & self.mu_T.seen
            rho = calibrate(rho, self.mu_S.prototypes, self.mu_T.prototypes, known)            # rho_S->T
        return dynamic_labels(f_T, rho, self.settings.dynamic_threshold, there)

    def hybrid(self, f_S: Tensor, Y: Tensor, f_T: Tensor, y_F: Tensor) -> Tensor:
        """y_T of a batch, at the size of y_F."""
        if self.settings.dynamic == "none":
            return y_F
        y_T = hybrid_labels(self.dynamic(f_S, Y, f_T), y_F)
        return torch.where(self.steps > self.settings.dynamic_after, y_T, y_F)  # an `if` would wait for the device

    def losses(self, source: Batch, target: Batch) -> Iterator[Losses]:
        s = self.settings
        P_S, P_T = self.see(source.image, "source"), self.see(target.image, "target")
        (f_S, Y), (f_T, y_F) = (P_S.features, source.label), (P_T.features, target.label)

        losses = self.supervised(P_S, Y)                                                               # L_base
        losses["static"] = supervised_loss(P_T, y_F)
        losses["entropy"] = entropy(P_S.logits, s.double_softmax)
        losses["entropy_target"] = entropy(P_T.logits, s.double_softmax)
        if s.lambda_fc or s.lambda_bc:
            self.steps += 1
            y_T = self.hybrid(f_S.detach(), Y, f_T.detach(), y_F)
            if target.valid is not None:
                y_T = torch.where(target.valid, y_T, IGNORE)  # no label on a crop's padding
            self.mu_S.update(f_S.detach(), labels_at(Y, f_S.shape[-2:]), "source")                     # mu_S <- ...
            self.mu_T.update(f_T.detach(), labels_at(y_T, f_T.shape[-2:]), "target")
            losses["forward"], losses["backward"] = bidirectional_contrast(                            # L_FC, L_BC
                f_S, Y, f_T, y_T, self.segmenter.num_classes, s.tau,
                s.overlap_only, s.through_prototypes, s.pairwise, s.by_class,
            )  # fmt: skip
        yield losses | self.terms({"source": source, "target": target}, source=P_S, target=P_T)

    @classmethod
    def kinds(cls, settings: BiDASettings) -> tuple[str, ...]:
        """Those of the slides' table, where dynamic labels are made at all."""
        return KINDS if settings.uses_dynamic else ()

    def label_kinds(self, looks: Looks) -> dict[str, LabelQuality]:
        """Of this network and its moving averages: target batches as in training, each beside a source batch for rho_S."""
        quality = {kind: LabelQuality(self.segmenter.num_classes, self.steps.device) for kind in KINDS}
        sources = chain.from_iterable(looks("source", shared=False) for _ in count())  # again, where the target has more
        for S, T, static in zip(sources, looks("target", labels="true", shared=False), looks("target", shared=False)):
            f_S, f_T = self.see(S.image, "source").features, self.see(T.image, "target").features
            nothing = torch.full_like(static.label, IGNORE)
            plain, moved = (self.dynamic(f_S, S.label, f_T, kind) for kind in ("uncalibrated", "calibrated"))
            labels = (hybrid_labels(plain, nothing), hybrid_labels(moved, nothing), hybrid_labels(moved, static.label))
            for kind, y in zip(KINDS, (static.label, *labels), strict=True):
                quality[kind].add(y, T.label)
        return quality

    def exchanged(self) -> dict[str, int]:
        s, (C, D) = self.settings, self.mu_S.mean.shape[1:]
        contrast, rho = bool(s.lambda_fc or s.lambda_bc), 4 * C * D + 4 * C  # (C, D) float32 sums and C counts
        looks = (s.uses_dynamic and s.dynamic_prototypes == "batch") + (0 if s.pairwise else 2)
        return {"prototypes": contrast * 2 * 8 * C * (D + 1), "batch prototypes": contrast * looks * rho}
