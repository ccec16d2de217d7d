"""A small project with the library's public names: a network, a method and a term of its own, trained, scored and used.

tests/test_py_typed.py type-checks this file with mypy as a user would, and runs it.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.data import Batch, ministreet, open_dataset, test_loader, test_transform, train_loader, train_transform
from course_lib.engine import JsonLines, LoopSettings, train
from course_lib.evaluation import Scores, evaluate, predict
from course_lib.experiments.compare import compare
from course_lib.experiments.train import Pair, load_network, score_network, train_recipe
from course_lib.labels import label_space
from course_lib.losses import cross_entropy
from course_lib.methods import AdaptSegNet, Method
from course_lib.methods.step import Losses, Passes, Step, Stream
from course_lib.methods.terms import Term, TermSettings
from course_lib.networks import Prediction, Segmenter, build, check_image
from course_lib.recipes import Row, recipe

SIZE = (32, 64)


class Tiny(Segmenter):
    """Two convolutions: image (N,3,H,W) -> features and logits at stride 4."""

    normalisation = "imagenet"
    feature_dim = 16

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = nn.Conv2d(3, self.feature_dim, 5, stride=4, padding=2)
        self.classifier = nn.Conv2d(self.feature_dim, num_classes, 1)

    def forward(self, image: Tensor) -> Prediction:
        check_image(image, "Tiny", self.normalisation)
        features = F.relu(self.backbone(image))
        return Prediction(features, self.classifier(features))

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        return self.backbone.parameters()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        return self.classifier.parameters()


@dataclass(frozen=True)
class SharpSettings(TermSettings):
    temperature: float = 1.0


class Sharp(Term):
    """Entropy of the source prediction."""

    name = "sharp"
    Settings = SharpSettings

    def forward(self, P: dict[str, Prediction], step: Step) -> Losses:
        logits = P["source"].logits
        return {"entropy": -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()}


@dataclass(frozen=True)
class MeanFeatureSettings:
    lambda_mean: float = 0.1


class MeanFeature(Method):
    """L = L_seg + lambda |mean feature of the source - that of the target|^2"""

    name = "mean-feature"
    Settings = MeanFeatureSettings
    offers = (("source", "target"),)

    @classmethod
    def streams(cls, settings: MeanFeatureSettings) -> dict[str, Stream]:
        return {"source": Stream(labels="true"), "target": Stream()}

    def passes(self) -> Passes:
        return Passes(trained=2, frozen=0)

    def losses(self, source: Batch, target: Batch) -> Iterator[Losses]:
        P_s, P_t = self.segmenter(source.image), self.segmenter(target.image)
        distance = (P_s.features.mean((0, 2, 3)) - P_t.features.mean((0, 2, 3))).square().mean()
        yield {
            "segmentation": cross_entropy(P_s.logits, source.label),
            "distance": self.settings.lambda_mean * distance,
            **self.terms({"source": source, "target": target}, source=P_s, target=P_t),
        }


def own_loop(source: str, target: str, validation: str, out: Path) -> Scores:
    """The method with the visible loop, then a score and pictures."""
    network = Tiny(label_space("cityscapes19").num_classes)
    method = MeanFeature(network, MeanFeatureSettings(0.2), terms={"sharp": Sharp(network, SharpSettings(weight=0.1))})
    look = train_transform(SIZE, network.normalisation, flip=True)
    loaders = {
        "source": train_loader(open_dataset(source, transform=look), 2, seed=0),
        "target": train_loader(open_dataset(target, transform=look, labelled=False), 2, seed=1),
    }
    log: JsonLines = train(method, loaders, LoopSettings(steps=2, log_every=1), log=JsonLines(out / "log.jsonl"), quiet=True)
    last: float = log.records[-1]["losses"]["sharp.entropy"]
    print(f"entropy {last:.3f}")
    pictures = open_dataset(validation, "val", transform=test_transform(SIZE, network.normalisation))
    scores = evaluate(network, test_loader(pictures), "cityscapes19", progress=False)
    written: list[Path] = predict(network, pictures.image_paths, out / "labels", size=SIZE, progress=False)
    print(f"{len(written)} files, mIoU {scores.miou:.3f}")
    return scores


def recipes(source: str, target: str, validation: str, out: Path) -> Scores:
    """A shipped method through its recipe: trained, read again, scored, compared."""
    settings = ("network=small", "network_options={'width': 8}", "steps=1", "start_steps=0", "batch_size=1", "select=last",
                "source_size=64x32", "target_size=64x32", "test_size=64x32", "discriminator_input=output")  # fmt: skip
    pair = Pair(source, target, f"{validation}@val")
    checkpoint: Path = train_recipe(recipe("ministreet", AdaptSegNet.name).override(*settings), pair, out / "run", quiet=True)
    network, constants = load_network(checkpoint)
    classes: int = network.num_classes
    with torch.no_grad():
        prediction = network(torch.zeros(1, 3, *SIZE))
    print(f"{classes} classes, {tuple(prediction.logits.shape)}, {constants.method}")
    rows = (Row("source-only", "source-only"),)
    results = compare("ministreet", pair, out / "compared", seeds=(0,), rows=rows, overrides=settings[:-1], quiet=True, jobs=1)
    print(f"{results['rows']['source-only']['miou_mean']:.2f}")
    return score_network(checkpoint, pair.validation or "", quiet=True)


def main(folder: Path) -> None:
    for name, layout, split, seed in (("game", "gta5", "train", 1), ("camera", "cityscapes", "train", 2),
                                      ("camera", "cityscapes", "val", 3)):  # fmt: skip
        ministreet.make(layout, folder / name, 2, seed, split=split, size=SIZE, workers=1, progress=False)
    domains = (f"gta5:{folder / 'game'}", f"cityscapes:{folder / 'camera'}", f"cityscapes:{folder / 'camera'}")
    print(own_loop(*domains, folder / "own").table())
    print(recipes(*domains, folder / "recipes").table())
    print(build("small", 19, width=8).feature_dim)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
