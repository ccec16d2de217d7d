"""Everything that a command does, on the stand-in for Apple's MPS (tests/mps.py), and the same numbers as on the CPU.

The stand-in computes on the CPU, so what it gives has to be the CPU's to the last bit: a difference would be a sum that is
kept in another type, or a number that is drawn elsewhere.
"""

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.from_scratch import SupervisedSettings, train_from_scratch
from course_lib.engine import load_checkpoint
from course_lib.engine.precision import to_device
from course_lib.evaluation import PseudoLabelSettings
from course_lib.evaluation.predict import predict
from course_lib.evaluation.probe import read_classes
from course_lib.experiments.plan import label_target, plan, run_plan
from course_lib.experiments.train import load_network, probe_network, score_network, train_recipe
from course_lib.losses import cross_entropy, region_contrast
from course_lib.methods.terms import region_contrast as regions
from course_lib.networks import build
from course_lib.recipes import METHODS, recipe
from tests.experiments.conftest import DISCRIMINATOR, TINY, TWO_RESOLUTIONS, TWO_TASKS
from tests.mps import Mps, on_mps, without_code, without_onednn

NARROW = "network_options={'width': 8}"
# channels_last is not for MPS (course_lib.devices); on the CPU it changes the last bits
SMALL = (*TINY, NARROW, "steps=3", "schedule_steps=3", "start_steps=0", "channels_last=no")


@pytest.fixture(autouse=True, scope="module")
def _kernels_of_the_device():
    with without_onednn():
        yield


FORMS = {  # what a step of a method can be, beside its defaults
    **{method: (method, "start_steps=1", "select=information", "save_every=1") for method, each in METHODS.items()
       if not each.planned
       and method not in ("simclr", "daformer", "hrda", "pipa-hrda", "cluda-hrda", "sepico", "segsdf", "depth")},
    "segsdf": ("segsdf", *TWO_TASKS),
    "depth": ("depth", *TWO_TASKS),
    "cluda-hrda": ("cluda-hrda", *TWO_RESOLUTIONS, "terms.resolution_contrast.grid=8"),
    **{f"sepico, {kind}": ("sepico", f"terms.distribution_contrast.kind={kind}", "terms.distribution_contrast.loss_from=0")
       for kind in ("distribution", "bank")},
    "simclr": ("simclr",),
    "source-only, batch norm, channels_last": ("source-only", NARROW.replace("}", ", 'norm': 'batch'}"), "channels_last=yes"),
    "source-only, lovasz, lars": ("source-only", "lambda_lovasz=0.75", "optimiser=lars"),
    "adaptsegnet, two levels, adamw": ("adaptsegnet", NARROW.replace("}", ", 'aux': True}"), "levels=multi",
                                       "optimiser=adamw", "accumulate=2"),
    "adaptsegnet, colours on the device": ("adaptsegnet", "photometric=weak", "target_photometric=strong", "colours_on=device"),
    "proca, mix, class-wise": ("proca", "rule=mix", "target_labels=class-wise", "balanced=yes"),
    "proca, ema, batch": ("proca", "rule=ema", "target_labels=batch"),
    "proca, static": ("proca", "target_labels=static", "similarity=dot"),
    "self-training, source": ("self-training", "lambda_source=1"),
    "bida, average": ("bida", "dynamic_prototypes=average", "pairwise=no", "by_class=yes", "dynamic_threshold=0.3"),
    "simclr, bank": ("simclr", "bank=16", "head_norm=layer"),
    "simclr, chunks": ("simclr", "chunk=2"),
}  # fmt: skip


def tiny(form: str, *more: str):
    method, *settings = FORMS[form]
    own = [DISCRIMINATOR] if method == "adaptsegnet" else []
    return recipe("ministreet", method).override(*SMALL, *own, *settings, *more)


def same(a, b, where: str = "") -> None:
    """Two contents are alike in names, types and bits, but for the seconds."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {"seconds"}:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for k, pair in enumerate(zip(a, b, strict=True)):
            same(*pair, f"{where}.{k}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.device == b.device and torch.equal(a, b), where
    else:
        assert a == b, where


def worked(device: Mps) -> None:
    """Something was computed on the device, and what torch has no code for is known."""
    assert device.seen["convolution"] > 0
    assert without_code(device.seen) == set()  # what is found belongs into docs/devices.md


@pytest.mark.parametrize("form", FORMS)
def test_three_steps_of_every_method_are_those_of_the_cpu(form, pair, labelled_pair, tmp_path, monkeypatch):
    settings = tiny(form)
    # region contrast takes other parts of its sums at a time on a CPU
    monkeypatch.setattr(regions, "region_contrast", functools.partial(region_contrast, chunk=64))
    given = labelled_pair if settings.method in ("proca", "self-training", "bida") else pair
    with on_mps() as device:
        checkpoint = train_recipe(settings, given, tmp_path / "mps", device="mps", quiet=True)
    worked(device)
    if not settings.loop.channels_last and settings.network != "hrda":  # other memory on the CPU, other sums
        train_recipe(settings, given, tmp_path / "cpu", device="cpu", quiet=True)
        same(load_checkpoint(checkpoint), load_checkpoint(tmp_path / "cpu" / checkpoint.name))


@pytest.fixture(scope="module")
def trained(pair, tmp_path_factory) -> Path:
    norm = NARROW.replace("}", ", 'norm': 'batch'}")
    return train_recipe(recipe("ministreet", "source-only").override(*SMALL, norm), pair, tmp_path_factory.mktemp("trained"),
                        quiet=True)  # fmt: skip


def test_scores_labels_and_pictures_are_those_of_the_cpu(trained, pair, tmp_path):
    picture = tmp_path / "a.png"
    Image.effect_noise((70, 40), 80).convert("RGB").save(picture)
    labels = recipe("ministreet", "self-training").override(*SMALL)
    others = replace(labels, pseudo=PseudoLabelSettings(one_threshold=0.06, picture_share=0.1, any_class=True))

    def everything(device: str, out: Path) -> list:
        score = functools.partial(score_network, trained, pair.validation, device=device, quiet=True)
        scores = [score(), score(multiscale=True), score(statistics="target", target=pair.target)]
        made = [label_target(trained, pair, out / name, settings, device=device, quiet=True)
                for name, settings in (("a", labels), ("b", others))]  # fmt: skip
        segmenter, _ = load_network(trained, device)
        predict(segmenter, [picture], out, device=device, multiscale=True, progress=False)
        files = {path.relative_to(out): path.read_bytes() for path in out.rglob("*.png")}
        return [[found.to_dict() for found in scores], made, files]

    with on_mps() as device:
        there = everything("mps", tmp_path / "mps")
    worked(device)
    same(there, everything("cpu", tmp_path / "cpu"))
    assert len(there[2]) == 4 + 4 + 2


def test_probe_and_training_from_scratch_are_those_of_the_cpu(trained, tmp_path):
    for split in ("train", "test"):
        for sigma, name in ((10, "a"), (90, "b")):
            for k in range(3):
                path = tmp_path / split / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.effect_noise((32, 32), sigma + k).convert("RGB").save(path)
    pictures, settings = read_classes(tmp_path / "train"), SupervisedSettings(steps=2, batch_size=4)

    def everything(device: str) -> list:
        torch.manual_seed(0)  # of the classifier
        scratch = train_from_scratch(build("small", 2, seed=0, width=8), pictures, settings, device=device)
        return [probe_network(trained, tmp_path, device=device).to_dict(), scratch.state_dict()]

    with on_mps() as device:
        there = everything("mps")
    worked(device)
    same(there, everything("cpu"))


@pytest.mark.parametrize("paper", ["proca", "bida"])
def test_all_stages_of_a_paper_score_as_on_the_cpu(paper, pair, tmp_path):
    stages = plan("ministreet", paper, (*SMALL, "steps=1", *(["rounds=1"] if paper == "bida" else [])))
    with on_mps() as device:
        there = run_plan(stages, pair, tmp_path / "mps", device="mps", quiet=True)
    worked(device)
    alone = run_plan(stages, pair, tmp_path / "cpu", quiet=True)
    assert {"single", "multiscale"} <= there.keys() - {"key"}
    for name in there.keys() - {"key"}:
        same(there[name], alone[name], name)


@pytest.mark.parametrize("first, then", [("cpu", "mps"), ("mps", "cpu")])
def test_a_run_goes_on_on_another_device(first, then, labelled_pair, tmp_path):
    """Prototypes are float64 in every file."""
    with on_mps():
        train_recipe(tiny("proca", "steps=2"), labelled_pair, tmp_path / "run", device=first, quiet=True)
        train_recipe(tiny("proca"), labelled_pair, tmp_path / "run", existing="resume", device=then, quiet=True)
    train_recipe(tiny("proca"), labelled_pair, tmp_path / "whole", quiet=True)
    there, alone = (load_checkpoint(tmp_path / name / "last.pt") for name in ("run", "whole"))
    assert there["method"]["banks.feat.mean"].dtype == torch.float64
    same(there, alone)


@pytest.mark.parametrize(
    "network, options",
    [
        ("deeplab_v2", {"form": "bida", "blocks": (1, 1, 1, 1)}),
        ("efficientnet_lite0", {"pretrained": False}),
        ("efficientnet_lite0", {"pretrained": False, "norm": "frozen"}),
    ],
)
def test_the_other_networks_learn_there(network, options):
    with on_mps() as device:
        segmenter = to_device(build(network, 5, seed=0, **options), torch.device("mps"), channels_last=True).train()
        logits = segmenter(torch.rand(2, 3, 32, 40).to("mps")).logits
        cross_entropy(logits, torch.zeros(2, 32, 40, dtype=torch.int64).to("mps")).backward()
        assert all(p.grad is not None for p in segmenter.backbone_parameters() if p.requires_grad)
    worked(device)
