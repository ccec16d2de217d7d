"""The training steps of AdaptSegNet, ProCA and BiDA in the plain way of their released code, for `step_speed.py` to compare.

Written from descriptions of those ways, with none of their code: float32, pictures as NCHW, full-size maps, a loss's value
fetched as soon as it is there, classes one after the other, a classifier whose branches run twice, a parameter stepped as often
as it is listed. Each step takes the networks and constants of one of our methods, so that both compute the same losses.

Left out to the release's advantage: ProCA's anomaly detection, which every script leaves on, BiDA's softmax for dynamic labels
that nothing reads, and its second, unused classifier.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import released_bida, released_proca
from course_lib.data import Batch
from course_lib.methods import AdaptSegNet, BiDA, Method, ProCA

IGNORE = 255
Values = dict[str, float]


def upsample(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def shrink(label: Tensor, size: torch.Size) -> Tensor:
    """Labels (N, H, W) at the features' size, nearest."""
    return F.interpolate(label[:, None].float(), size=tuple(size), mode="nearest")[:, 0].long()


def sgd(method: Method, times: int = 1) -> torch.optim.Optimizer:
    """SGD with momentum, one parameter after the other; the backbone listed `times`."""
    groups = [
        {**group, "params": group["params"] * (times if number == 0 else 1)}
        for number, group in enumerate(method.optimisers["segmenter"].param_groups)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "duplicate parameters"
        return torch.optim.SGD(groups, lr=1e-4, momentum=0.9, foreach=False)


class AdaptSegNetStep:
    """Logits to the picture's size, softmax, discriminator; six backward passes; the backbone is stepped three times."""

    def __init__(self, method: AdaptSegNet) -> None:
        self.network, self.discriminators, self.weights = method.segmenter, method.discriminators, method.weights
        self.optimiser = sgd(method, times=3)
        self.others = [
            torch.optim.Adam(d.parameters(), lr=1e-4, betas=(0.9, 0.99), foreach=False) for d in self.discriminators.values()
        ]

    def maps(self, batch: Batch) -> dict[str, Tensor]:
        P = self.network(batch.image)
        size = batch.image.shape[-2:]
        return {"main": upsample(P.logits, size), "aux": upsample(P.aux_logits, size)}

    def domain(self, level: str, logits: Tensor, label: float) -> Tensor:
        score = self.discriminators[level](F.softmax(logits, dim=1))
        return F.binary_cross_entropy_with_logits(score, torch.full(score.shape, label).to(score.device))

    def __call__(self, source: Batch, target: Batch) -> Values:
        values: Values = {}
        for optimiser in (self.optimiser, *self.others):
            optimiser.zero_grad()
        self.discriminators.requires_grad_(False)
        P = self.maps(source)
        seg = {level: F.cross_entropy(P[level], source.label, ignore_index=IGNORE) for level in P}
        (seg["main"] + self.weights["segmentation_aux"] * seg["aux"]).backward()
        values["segmentation"], values["segmentation_aux"] = seg["main"].item(), seg["aux"].item()

        T = self.maps(target)
        adversarial = {level: self.domain(level, T[level], 0.0) for level in T}
        sum(self.weights[f"adversarial_{level}"] * loss for level, loss in adversarial.items()).backward()
        values |= {f"adversarial_{level}": loss.item() for level, loss in adversarial.items()}

        self.discriminators.requires_grad_(True)
        for side, maps, label in (("source", P, 0.0), ("target", T, 1.0)):
            for level, logits in maps.items():
                loss = self.domain(level, logits.detach(), label)
                (loss / 2).backward()
                values[f"discriminator_{level}_{side}"] = loss.item()
        for optimiser in (self.optimiser, *self.others):
            optimiser.step()
        return values


class ProCAStep:
    """Cross-entropy and Lovasz, class by class; prototypes by a pixels x classes x channels product; gathered rows."""

    def __init__(self, method: ProCA) -> None:
        self.network, self.settings, self.weights = method.segmenter, method.settings, method.weights
        self.optimiser = sgd(method)
        self.prototypes = {space: bank.prototypes.clone() for space, bank in method.banks.items()}
        self.amounts = {space: bank.count[0].float() for space, bank in method.banks.items()}

    def contrast(self, S: dict[str, Tensor], Y: Tensor, T: dict[str, Tensor], y: Tensor) -> dict[str, Tensor]:
        """Prototypes take in both batches, then both losses, in each space."""
        losses = {}
        for space in S:
            for maps, labels in ((T[space], y), (S[space], Y)):
                self.prototypes[space], self.amounts[space] = released_proca.update(
                    self.prototypes[space], self.amounts[space], maps, labels
                )
            for side, maps, labels in (("source", S[space], Y), ("target", T[space], y)):
                losses[f"contrast_{space}_{side}"] = released_proca.contrast(
                    maps, labels, self.prototypes[space], self.settings.contrast_temperature
                )
        return losses

    def labels(self, logits: Tensor, label: Tensor, logits_t: Tensor) -> tuple[Tensor, Tensor]:
        """Y at the features' size, and the target's labels where the largest logit reaches 0.9."""
        largest, y = logits_t.detach().max(dim=1)
        y[largest < self.settings.threshold] = IGNORE
        return shrink(label, logits.shape[-2:]), y

    def __call__(self, source: Batch, target: Batch) -> Values:
        self.optimiser.zero_grad()
        P_s, P_t = self.network(source.image), self.network(target.image)
        Y, y = self.labels(P_s.logits, source.label, P_t.logits)
        large = upsample(P_s.logits, source.label.shape[-2:])
        losses = {
            "segmentation": F.cross_entropy(large, source.label, ignore_index=IGNORE),
            "lovasz": lovasz(F.softmax(large, dim=1), source.label),
        }
        losses |= self.contrast({"feat": P_s.features, "out": P_s.logits}, Y, {"feat": P_t.features, "out": P_t.logits}, y)
        sum(self.weights.get(name, 1.0) * loss for name, loss in losses.items()).backward()
        self.optimiser.step()
        return {name: loss.item() for name, loss in losses.items()}


def lovasz(p: Tensor, label: Tensor) -> Tensor:
    """Mean over the classes there of the sorted errors times the steps of the Jaccard index; a sort for every class."""
    p, label = p.permute(0, 2, 3, 1).reshape(-1, p.shape[1]), label.flatten()
    p, label = p[label != IGNORE], label[label != IGNORE]
    losses = []
    for c in range(p.shape[1]):
        mine = (label == c).float()
        if mine.sum() == 0:
            continue
        errors, order = torch.sort((mine - p[:, c]).abs(), descending=True)
        mine = mine[order]
        jaccard = 1 - (mine.sum() - mine.cumsum(0)) / (mine.sum() + (1 - mine).cumsum(0))
        jaccard[1:] = jaccard[1:] - jaccard[:-1].clone()
        losses.append(errors @ jaccard)
    return sum(losses) / len(losses)


class BiDAStep:
    """A classifier whose four branches run twice, maps at the picture's size, one pair of pictures after the other.

    entropy_at: "picture", as released, or "grid", the network's own output, to compare values with ours.
    """

    def __init__(self, method: BiDA, entropy_at: str = "picture") -> None:
        self.network, self.settings, self.weights, self.entropy_at = (
            method.segmenter,
            method.settings,
            method.weights,
            entropy_at,
        )
        self.optimiser = sgd(method)

    def see(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits at the picture's size, features (the branches side by side), logits as they are."""
        n = self.network
        x = n.maxpool(F.relu(n.bn1(n.conv1(image)), inplace=True))
        top = n.layer4(n.layer3(n.layer2(n.layer1(x))))
        first, *others = n.layer5.conv2d_list
        logits, features = first(top), first(top)
        for branch in others:
            logits = logits + branch(top)
            features = torch.cat([features, branch(top)], dim=1)
        return upsample(logits, image.shape[-2:]), features, logits

    def contrast(self, f_s: Tensor, y_s: Tensor, f_t: Tensor, y_t: Tensor) -> dict[str, Tensor]:
        with torch.device(f_s.device):
            pairs = [released_bida.contrast(*pair, self.network.num_classes) for pair in zip(f_s, y_s, f_t, y_t)]
        return {name: sum(parts) / len(parts) for name, parts in zip(("forward", "backward"), zip(*pairs))}

    def __call__(self, source: Batch, target: Batch) -> Values:
        self.optimiser.zero_grad()
        (P_s, f_s, small_s), (P_t, f_t, small_t) = self.see(source.image), self.see(target.image)
        if self.entropy_at == "picture":
            small_s, small_t = P_s, P_t
        losses = {
            "segmentation": F.cross_entropy(P_s, source.label, ignore_index=IGNORE),
            "static": F.cross_entropy(P_t, target.label, ignore_index=IGNORE),
            "entropy": entropy(small_s),
            "entropy_target": entropy(small_t),
        }
        losses |= self.contrast(f_s, source.label, f_t, target.label)
        sum(self.weights.get(name, 1.0) * loss for name, loss in losses.items()).backward()
        self.optimiser.step()
        return {name: loss.item() for name, loss in losses.items()}


def entropy(logits: Tensor) -> Tensor:
    """- sum_c p_c log softmax(p)_c, the softmax taken twice, as released."""
    p = F.softmax(logits, dim=1)
    return -(p * F.log_softmax(p, dim=1)).sum(dim=1).mean()


def step_of(method: Method, **options) -> AdaptSegNetStep | ProCAStep | BiDAStep:
    """The plain step around a method's networks."""
    kinds = {AdaptSegNet: AdaptSegNetStep, ProCA: ProCAStep, BiDA: BiDAStep}
    return kinds[type(method)](method, **options)
