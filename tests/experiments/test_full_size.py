"""The full-size recipes from the first stage to the report, unattended, on MiniStreet in the folders of the real data.

Pictures, steps and rounds are fewer and nothing is downloaded; stages, methods and networks are those of the recipes. Each
paper runs with one block a layer, and in `make full` once with ResNet-101 in its whole depth.
"""

import json
import math
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from course_lib.data import Batch, ministreet
from course_lib.engine import load_checkpoint, train
from course_lib.experiments.compare import compare
from course_lib.experiments.compute import build_meta
from course_lib.experiments.data_root import pair_below
from course_lib.experiments.parts import seeded_segmenter
from course_lib.experiments.plan import PREPARED, plan, stage_times
from course_lib.experiments.rows import ablation_rows, find_rows, row_recipe, row_stages
from course_lib.recipes.recipe import build_method
from course_lib.report import published_scores
from tests.experiments.test_daformer import LOSSES

SMALL = (
    "steps=1", "batch_size=2", "workers=0", "log_every=1",
    "source_size=128x64", "target_size=128x64", "test_size=128x64", "crop=128x64",
)  # fmt: skip
SHALLOW = "network_options={'imagenet': False, 'blocks': (1, 1, 1, 1)}"
DEEP = "network_options={'imagenet': False}"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    options = {"size": (64, 128), "workers": 1, "progress": False}
    ministreet.make("gta5", root / "GTA5", 3, 1, **options)
    ministreet.make("synthia", root / "SYNTHIA", 3, 1, **options)
    ministreet.make("cityscapes", root / "cityscapes", 3, 2, **options)
    ministreet.make("cityscapes", root / "cityscapes", 1, 3, split="val", **options)
    return root


@pytest.mark.parametrize(
    ("paper", "recipe", "network", "stages"),
    [
        pytest.param("adaptsegnet", "gta5_cityscapes", DEEP, ["adapt", "test"], marks=pytest.mark.full),
        ("adaptsegnet", "synthia_cityscapes", SHALLOW, ["adapt", "test"]),
        ("proca", "gta5_cityscapes", SHALLOW, ["source", "prototypes", "contrast", "labels", "self-training", "test"]),
        pytest.param("proca", "gta5_cityscapes", DEEP, ["source", "prototypes", "contrast", "labels", "self-training", "test"],
                     marks=pytest.mark.full),  # fmt: skip
        ("proca", "synthia_cityscapes", SHALLOW, ["source", "prototypes", "contrast", "labels", "self-training", "test"]),
        ("bida", "gta5_cityscapes", SHALLOW, ["source", "labels-1", "round-1", "labels-2", "round-2", "test"]),
        pytest.param("bida", "synthia_cityscapes", DEEP, ["source", "labels-1", "round-1", "labels-2", "round-2", "test"],
                     marks=pytest.mark.full),  # fmt: skip
    ],
)
def test_all_stages_run_unattended_to_the_report(paper, recipe, network, stages, root, uda, tmp_path):
    deep, out = network == DEEP, tmp_path / "run"
    few = ("rounds=2",) if paper == "bida" else ()
    settings = [word for setting in (*SMALL, *few, network) for word in ("--set", setting)]
    words = ("run", paper, "--recipe", recipe, "--data-root", root, "--out", out, "--device", "cpu", "--quiet", *settings)
    status, said, error = uda(*words)
    assert status == 0, error
    assert list(json.loads((out / "stages.json").read_text(encoding="utf-8"))) == ["made_by", *stages]
    report = (out / "report.md").read_text(encoding="utf-8").removeprefix("<!-- made by `uda run` -->\n")
    known = bool(published_scores(paper, "synthia16" if recipe.startswith("synthia") else "cityscapes19")[1])
    assert report in said and ("of another data set" in report) == known
    assert known or (paper, recipe) == ("adaptsegnet", "synthia_cityscapes")  # for which no source gives a score
    classes, means = (16, ("16", "13")) if recipe.startswith("synthia") else (19, ("19", "16", "13"))
    assert all(f"| **mIoU-{mean}** |" in report for mean in means)
    network = load_checkpoint(out / f"{len(stages) - 1}_{stages[-2]}" / "best.pt")["segmenter"]
    assert network["layer5.conv2d_list.0.weight"].shape == (classes, 1024 if paper == "adaptsegnet" else 2048, 3, 3)
    assert ("layer3.22.conv1.weight" in network) == deep  # ResNet-101's 23 blocks
    if paper == "bida":
        assert "| hybrid |" in report and "| labels-2 |" in report

    times = (out / f"{len(stages) - 1}_{stages[-2]}" / "best.pt").stat().st_mtime_ns
    assert uda(*words)[0] == 0, "the same command once more has nothing to do"
    assert (out / f"{len(stages) - 1}_{stages[-2]}" / "best.pt").stat().st_mtime_ns == times
    shutil.rmtree(out)  # gigabytes, which pytest would keep for its next three runs


@pytest.mark.parametrize(("paper", "recipe"), [
    *product(("adaptsegnet", "proca", "bida"), ("gta5_cityscapes", "synthia_cityscapes")),
    *product(("classmix", "reco", "semiseg", "segsdf", "gist", "rist"), ("cityscapes_few_labels",)),
])  # fmt: skip
def test_every_stage_that_trains_has_the_whole_resnet_101(paper, recipe):
    """On the meta device: shapes without numbers."""
    stages = [stage for stage in plan(recipe, paper, (DEEP,)) if stage.kind == "train"]
    assert len({stage.recipe.network for stage in stages}) == 1
    for stage in (stages[0], stages[-1]):
        names = [name.removeprefix("segmenter.") for name in build_meta(stage.recipe).segmenter.state_dict()]
        blocks = [len({name.split(".")[1] for name in names if name.startswith(f"layer{k}.")}) for k in (1, 2, 3, 4)]
        assert blocks == [3, 4, 23, 3], stage.name


@pytest.mark.parametrize(("paper", "name", "wanted"), [
    ("classmix", "adapt", {"segmentation", "mixed"}), ("gist", "unlabelled-1", {"pseudo"}), ("segsdf", "depth", {"depth"}),
])  # fmt: skip
def test_a_step_of_each_stage_for_few_labels_at_full_depth(paper, name, wanted):
    """With numbers, on small pictures, in the published network; stages that other tests do not run."""
    (chosen,) = (stage.recipe for stage in plan("cityscapes_few_labels", paper, (DEEP,)) if stage.name == name)
    g = torch.Generator().manual_seed(0)

    def pictures() -> Batch:
        image = torch.randn(2, 3, 65, 65, generator=g)
        label, D = torch.randint(0, 19, (2, 65, 65), generator=g), torch.rand(2, 65, 65, generator=g)
        return Batch(image, label, ["a.png", "b.png"], plain=image, disparity=D)

    m, loop = build_method(chosen, seeded_segmenter(chosen)), replace(chosen.loop, steps=1, schedule_steps=1, log_every=1)
    before = next(m.segmenter.parameters()).detach().clone()
    log = train(m, {stream: [pictures()] for stream in chosen.streams}, loop, quiet=True)
    assert wanted <= set(log.records[0]["losses"]) and all(math.isfinite(v) for v in log.records[0]["losses"].values())
    assert not torch.equal(before, next(m.segmenter.parameters())), "the first convolution has learned"


def test_an_ablation_at_full_size_keeps_each_stages_own_steps(root, tmp_path):
    def steps(row, name="gta5_cityscapes"):
        return sum(stage.recipe.loop.steps for stage in row_stages(row, name, (), 0) if stage.kind == "train")

    declared = {row.name: row for row in ablation_rows("proca", "gta5_cityscapes")}
    wanted = {"source-only": 20_000, "F": 110_000, "F+O": 110_000, "Ada-ST": 110_000, "F+O, Ada-ST": 200_000}
    assert {name: steps(declared[name]) for name in wanted} == wanted
    assert [stage.name for stage in row_stages(declared["Ada-ST"], "gta5_cityscapes", (), 0)] == [
        "source",
        "labels",
        "self-training",
        "test",
    ]
    assert row_recipe(declared["adaptsegnet"], "gta5_cityscapes", (), 0).loop.steps == 150_000
    assert "F+O, mean over pixels" not in declared, "the release's own rule, so it is the row F+O"
    bida = {row.name: row for row in ablation_rows("bida", "synthia_cityscapes", "SYNTHIA")}
    assert steps(bida["base"], "synthia_cityscapes") == 60_000 + 10 * 9_400
    assert steps(bida["source-only"], "synthia_cityscapes") == 60_000

    rows = tuple(declared[name] for name in ("source-only", "Ada-ST", "F+O, Ada-ST"))
    results = compare("gta5_cityscapes", pair_below(root, "gta5_cityscapes"), tmp_path, seeds=(0,), rows=rows,
                      overrides=(*SMALL, SHALLOW), quiet=True, jobs=1)  # fmt: skip
    assert [row["steps"] for row in results["rows"].values()] == [1, 2, 3]
    (shared,) = (tmp_path / "shared").iterdir()
    trained = [path.parent for path in tmp_path.rglob("log.jsonl") if path.parent.name == "1_source"]
    assert trained == [shared / "1_source"], "one source stage for all rows"
    source = stage_times(shared)["source"]["peak_bytes"] / 2**20
    assert all(row["seeds"]["0"]["peak_mib"] >= int(source) for row in results["rows"].values()), "and its memory is theirs"
    seconds = [row["seeds"]["0"]["train_seconds"] for row in results["rows"].values()]
    assert min(seconds[1:]) > seconds[0] > 0, "and its time is part of every row's"
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| 37.3 |" in table and "| 3 | running |" in table


def test_a_row_runs_all_stages_again_where_its_shared_source_stage_is_another(root, tmp_path):
    """photometric=weak is the contrast's own setting already: the source stage alone becomes another."""
    (row,) = find_rows(ablation_rows("proca", "gta5_cityscapes"), ["F+O"])

    def prototypes(*more: str) -> tuple[str, str]:
        compare("gta5_cityscapes", pair_below(root, "gta5_cityscapes"), tmp_path, seeds=(0,), rows=(row,),
                overrides=(*SMALL, SHALLOW, *more), quiet=True, jobs=1)  # fmt: skip
        folder = tmp_path / "F_O" / "seed0"
        network = load_checkpoint(folder / "2_prototypes" / PREPARED)["network"]
        return network, (folder / "begins_with.txt").read_text(encoding="utf-8")

    first = prototypes()
    assert prototypes() == first
    assert prototypes("log_every=7") == first, "which changes nothing that is learnt"
    with pytest.warns(UserWarning, match="began with another source stage. Running all its stages again"):
        second = prototypes("photometric=weak")
    assert second[0] != first[0] and second[1] != first[1]
    assert len(list((tmp_path / "shared").iterdir())) == 2

    (folder := tmp_path / "F_O" / "seed0").joinpath("scores.json").unlink()  # cut off, and its contrast torn
    for path in (folder / "3_contrast").glob("*.pt"):
        path.write_bytes(b"torn")
    with pytest.warns(UserWarning, match="Running all stages again"):
        assert prototypes("photometric=weak") == second, "and what was noted is noted again: the next call goes on"
    assert prototypes("photometric=weak") == second


def test_small_recipes_keep_equal_steps_for_all_rows():
    counts = {
        row.name: sum(stage.recipe.loop.steps for stage in row_stages(row, "ministreet", (), 0) if stage.kind == "train")
        for row in ablation_rows("proca", "ministreet")
        if row.plan
    }
    assert len(counts) > 5 and set(counts.values()) == {300}


TRANSFORMERS = [
    ("daformer", "gta5_cityscapes", "b5"), ("hrda", "synthia_cityscapes", "b0"), ("mic", "gta5_cityscapes", "b0"),
    ("sepico", "gta5_cityscapes", "b0"), ("pipa-hrda", "synthia_cityscapes", "b0"), ("cluda-hrda", "gta5_cityscapes", "b0"),
]  # fmt: skip
PIPA = ("pipa-daformer", "gta5_cityscapes")
AT_ONCE = {  # losses that begin later, and what anchors small pictures have
    "sepico": ("terms.distribution_contrast.loss_from=0",),
    "pipa": ("terms.patch_contrast.first_step=0", "terms.patch_contrast.least_confidence=0", "terms.pixel_contrast.least=1",
             "terms.patch_contrast.window_share=1"),  # of which a half has MiT's 32 pixels
}


@pytest.mark.parametrize(
    ("paper", "recipe", "size", "steps"),
    [
        *((*each, 1) for each in TRANSFORMERS),
        *(pytest.param(*each[:2], "b5", 3, marks=pytest.mark.full) for each in (*TRANSFORMERS, PIPA)),
    ],
)
def test_systems_on_a_transformer_run_unattended_to_the_report(paper, recipe, size, steps, root, uda, tmp_path):
    """At random weights: NVIDIA's start is not shipped."""
    network = f"network_options={{'imagenet': None, 'size': '{size}'}}"
    at_once = AT_ONCE.get(paper.partition("-")[0], ())
    # at half the size, halved again, MiT still has its 32 pixels
    small = (*SMALL, *at_once, "test_size=128x128", "rare_pixels=0")
    settings = [word for setting in (*small, f"steps={steps}", network) for word in ("--set", setting)]
    words = ("run", paper, "--recipe", recipe, "--data-root", root, "--out", tmp_path, "--device", "cpu", "--quiet", *settings)
    status, said, error = uda(*words)
    assert status == 0, error
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"| **mIoU-{16 if recipe.startswith('synthia') else 19}** |" in report
    state = load_checkpoint(tmp_path / "1_adapt" / "best.pt")["segmenter"]
    assert len([name for name in state if name.endswith("attn.q.weight")]) == {"b0": 8, "b5": 52}[size]
    records = (tmp_path / "1_adapt" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    losses = json.loads(records[-1])["losses"]
    assert len(records) == steps and losses.keys() == LOSSES[paper]
    shutil.rmtree(tmp_path)


# of each stage that trains: its losses
CLASSMIX = {"segmentation", "mixed"}
LABELLED, PSEUDO = {"segmentation"}, {"pseudo"}
DEPTH = {"depth", "depth_unlabelled"}
MEMORY = CLASSMIX | {"entropy", "memory_contrast.source", "memory_contrast.mixed"}
FEW_LABELS = {
    "classmix": ({"adapt": CLASSMIX}, "'imagenet': False", ()),
    "reco": ({"adapt": CLASSMIX | {"region_contrast.contrast"}}, "'imagenet': False", ("queries=8", "negatives=8")),
    "gist": ({"supervised": LABELLED, "labelled-1": LABELLED, "unlabelled-1": PSEUDO}, "'imagenet': False", ("rounds=1",)),
    "rist": ({"supervised": LABELLED, "unlabelled-1": PSEUDO, "labelled-2": LABELLED}, "'imagenet': False",
             ("rounds=2", "seed=2")),  # which draws one of each
    "segsdf": ({"depth": DEPTH, "adapt": CLASSMIX | DEPTH}, "'imagenet': False, 'decoder_width': 64", ()),
    "semiseg": ({"adapt": MEMORY}, "'imagenet': False, 'form': 'semiseg', 'depth': 50",
                ("network=deeplab_v3plus", "terms.memory_contrast.first_step=0", "terms.memory_contrast.loss_from=0",
                 "terms.memory_contrast.least_confidence=0", "mix_after=0", "balance_from=0")),
}  # fmt: skip


@pytest.mark.parametrize(
    ("paper", "deep"),
    [
        *((paper, False) for paper in FEW_LABELS if paper != "rist"),  # its stages are GIST's
        *(pytest.param(paper, paper != "rist", marks=pytest.mark.full) for paper in FEW_LABELS),
    ],
)
def test_few_labels_of_one_domain_run_unattended_to_the_report(paper, deep, root, uda, tmp_path):
    """Of 3 pictures 2 are labelled, of which GIST holds one out; SegSDF's have depth; ReCo and SemiSeg are on DeepLabV3+."""
    losses, options, more = FEW_LABELS[paper]
    blocks = "" if deep else ", 'blocks': (1, 1, 1, 1)"
    options = f"network_options={{{options}{blocks}}}"
    settings = [word for setting in (*SMALL, *more, options) for word in ("--set", setting)]
    words = ("run", paper, "--recipe", "cityscapes_few_labels", "--target", f"cityscapes:{root / 'cityscapes'}", "--labels", 2,
             "--out", tmp_path, "--device", "cpu", "--quiet", *settings)  # fmt: skip
    status, _, error = uda(*words)
    assert status == 0, error
    assert "| **mIoU-19** |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    found = {}
    for path in tmp_path.glob("*/log.jsonl"):
        found[path.parent.name.partition("_")[2]] = json.loads(path.read_text(encoding="utf-8"))["losses"].keys()
        network = load_checkpoint(path.parent / "best.pt")["segmenter"].keys()
        prefix, last = "segmenter." * (paper == "segsdf"), 5 if paper == "semiseg" else 22
        assert (f"{prefix}layer3.{last}.conv1.weight" in network) == deep  # ResNet-50's or ResNet-101's blocks
        assert ("context.pooling.conv.weight" in network) == (paper in ("reco", "semiseg"))
    assert found == losses
    shutil.rmtree(tmp_path)
