"""Each command that is printed as a hint is run as it is printed, names in capitals replaced."""

import re
import shlex
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from course_lib import outside
from course_lib.engine import save_checkpoint
from course_lib.experiments.hints import features_hints, labels_hint, scoring_hint
from course_lib.experiments.train import load_network
from course_lib.networks import build, load_builder
from course_lib.recipes import recipe
from tests.test_cli import uda  # noqa: F401

SMALL = ("network=small", "network_options={'width': 16}")
STEPS = ("steps=1", "start_steps=0", "batch_size=1", "source_size=64x32", "target_size=64x32", "test_size=64x32")
SET = [word for setting in (*SMALL, *STEPS) for word in ("--set", setting)]
SHORT = [word for setting in STEPS for word in ("--set", setting)]  # a hint's training, made short


def hints(out: str) -> list[list[str]]:
    """The words after "uda" of each printed command."""
    return [shlex.split(line.partition(": uda ")[2]) for line in out.splitlines() if ": uda " in line]


def test_the_split_of_the_validation_is_named(pair):
    """Also one that is not the default of `uda evaluate`."""
    given = replace(pair, validation=f"{pair.source}@odd")
    (words,) = hints(scoring_hint("best.pt", recipe("ministreet", "source-only"), given))
    assert words == ["evaluate", "best.pt", "--data", pair.source, "--split", "odd"]


def test_a_network_of_a_notebook_has_no_command_but_words_for_python(pair, tmp_path):
    """They are followed to the letter."""

    def tiny(num_classes):
        return nn.Sequential(nn.Conv2d(3, num_classes, 1), nn.Upsample(scale_factor=1))

    chosen = replace(recipe("ministreet", "source-only"), network=load_builder(tiny), network_options={})
    weights = build(chosen.network, 19).state_dict()
    path = save_checkpoint(tmp_path / "best.pt", {"recipe": chosen.to_dict(), "segmenter": weights})
    said = [scoring_hint(path, chosen, pair), *features_hints(path, chosen), labels_hint(path, chosen, pair.target, "labels")]
    assert len(said) == 3 and len(set(said)) == 1
    assert "None" not in said[0] and not hints(said[0]) and "train again with network=FILE.py:tiny." in said[0]
    outside.LOADED.clear()  # another notebook
    first, second = re.findall(r"course_lib\.([\w.]+)\.(\w+\(\S+\))[,;]", said[0])
    assert [first, second] == [("networks", "load_builder(tiny)"), ("experiments.train", f"load_network({str(path)!r})")]
    eval(first[1], {"load_builder": load_builder, "tiny": tiny})
    network, _ = eval(second[1], {"load_network": load_network})
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def replaced(words, pair, tmp_path, folder="") -> list[str]:
    data = iter([pair.source, pair.target] if words[0] == "train" else [pair.validation.partition("@")[0]])
    names = {"RUN": str(tmp_path / "next"), "SPLIT": "val", "FOLDER": str(folder)}
    return [next(data) if word == "LAYOUT:PATH" else names.get(word, word) for word in words]


@pytest.mark.parametrize("statistics", ["running", "target"])
@pytest.mark.parametrize("kind", ["pictures", "validation", "val", "train alone"])
def test_the_hint_after_a_training_works(kind, statistics, pair, uda, tmp_path):  # noqa: F811
    given = {
        "pictures": f"folder:{pair.target.partition(':')[2]}/leftImg8bit/train",
        "validation": pair.target,
        "val": f"{pair.validation.partition('@')[0]}@val",  # trained on, which it may be
        "train alone": pair.target,
    }[kind]
    more = ["--validation", pair.validation] if kind == "validation" else []
    status, out, error = uda("train", "bn-control", "--source", pair.source, "--target", given, "--out", tmp_path / "run",
                             *more, "--device", "cpu", "--quiet", *SET, "--set", f"statistics={statistics}")  # fmt: skip
    assert status == 0, error
    (words,) = hints(out)
    assert ("LAYOUT:PATH" in words) == (kind in ("pictures", "train alone")), out
    status, out, error = uda(*replaced(words, pair, tmp_path))
    assert status == 0 and "mIoU" in out, error


def test_the_hint_after_labelling_works(pair, uda, tmp_path):  # noqa: F811
    data = ("--source", pair.source, "--target", pair.target, "--device", "cpu", "--quiet")
    assert uda("train", "source-only", *data, "--out", tmp_path / "run", *SET)[0] == 0
    checkpoint = tmp_path / "run" / "best.pt"
    status, out, error = uda("label", checkpoint, "--target", pair.target, "--out", tmp_path / "labels", "--quiet")
    assert status == 0, error
    (words,) = hints(out)
    status, out, error = uda(*replaced(words, pair, tmp_path), *SHORT, "--quiet")
    assert status == 0 and (tmp_path / "next" / "best.pt").is_file(), error


def test_the_hints_after_simclr_work(pair, uda, tmp_path):  # noqa: F811
    crops = tmp_path / "crops"
    for part, count in (("unlabelled", 4), ("train/car", 3), ("train/tree", 3), ("test/car", 2), ("test/tree", 2)):
        for number in range(count):
            (crops / part).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (40 * number, 90, 10)).save(crops / part / f"{number}.png")
    short = ("--device", "cpu", "--quiet", "--set", "steps=1", "--set", "batch_size=2")
    status, out, error = uda("train", "simclr", "--data", f"folder:{crops / 'unlabelled'}", "--out", tmp_path / "run", *short)
    assert status == 0, error
    score, segmenter = hints(out)
    status, out, error = uda(*replaced(score, pair, tmp_path, crops))
    assert status == 0, error
    status, out, error = uda(*replaced(segmenter, pair, tmp_path), *SHORT, "--quiet")
    assert status == 0 and (tmp_path / "next" / "best.pt").is_file(), error


@pytest.mark.parametrize("layout, split", [("gta5", "train"), ("cityscapes", "train"), ("cityscapes", "val")])
def test_what_is_said_of_a_set_that_was_made_opens_it(layout, split, uda, tmp_path):  # noqa: F811
    status, out, error = uda("data", "make", "ministreet", "--as", layout, "--out", tmp_path / "set", "--count", 2, "--size",
                             "64x32", "--split", split, "--quiet")  # fmt: skip
    assert status == 0, error
    assert uda("data", "check", out.strip().rpartition(" ")[2], "--quiet")[0] == 0
    options = ("--out", tmp_path / "prepared", "--size", "32x16", "--split", split, "--quiet")
    status, out, error = uda("data", "prepare", f"{layout}:{tmp_path / 'set'}", *options)
    assert status == 0, error
    assert uda("data", "check", out.splitlines()[0].rpartition(" ")[2], "--quiet")[0] == 0
