"""DAFormer and what is built on a mean teacher, as recipes: all of their losses act; published settings, plans, costs,
processes, bad files."""

import itertools
import json
from dataclasses import replace

import pytest
import torch

from course_lib.data import Batch
from course_lib.engine import LoopSettings, load_checkpoint, train
from course_lib.experiments.compute import build_meta, step_cost, training_cost
from course_lib.experiments.estimate import estimate
from course_lib.experiments.parts import build_segmenter
from course_lib.experiments.plan import plan
from course_lib.experiments.rows import ablation_rows, row_stages, standard_rows
from course_lib.experiments.train import train_recipe
from course_lib.recipes import PAPERS, Stage, recipe
from course_lib.recipes.paper import Counts
from course_lib.recipes.recipe import build_method
from tests.bounds import bound, close
from tests.experiments.conftest import TINY, network_of
from tests.processes import uda

BASE = {"segmentation", "mixed"}
DAFORMER = BASE | {"feature_distance.distance"}
PIPA = DAFORMER | {"pixel_contrast.contrast", "patch_contrast.patches"}
LOSSES = {
    "daformer": DAFORMER,
    "hrda": DAFORMER,
    "mic": DAFORMER | {"masked_consistency.consistency"},
    "pipa-daformer": PIPA,
    "pipa-hrda": PIPA,
    "cluda-hrda": DAFORMER | {"resolution_contrast.source", "resolution_contrast.mixed"},
    "sepico": BASE | {f"distribution_contrast.{name}" for name in ("source", "target", "regulariser")},
}
SYSTEMS = tuple(LOSSES)
ON_HRDA = ("hrda", "mic", "pipa-hrda", "cluda-hrda")
# of each term: what tiny pictures and few steps want
TINY_TERMS = {
    "feature_distance": ("classes=(0, 2, 8)",),
    "pixel_contrast": ("least=1", "anchors=64", "hidden=8", "out=8"),
    "patch_contrast": ("least_confidence=0", "hidden=8", "embedding=8", "queue_cells=16"),
    "resolution_contrast": ("grid=8", "omega_width=8"),
    "distribution_contrast": ("loss_from=0", "projector_hidden=8", "projector_out=8", "cell_share=0.5"),
}


def terms_of(system: str) -> set[str]:
    return {name.partition(".")[0] for name in LOSSES[system] if "." in name}


def tiny_terms(system: str) -> tuple[str, ...]:
    return tuple(f"terms.{term}.{text}" for term in sorted(terms_of(system)) for text in TINY_TERMS.get(term, ()))


def tiny(system: str, *more: str):
    return recipe("ministreet", system).override(*TINY, *network_of(system), *tiny_terms(system), *more)


def batches(seed: int) -> dict[str, Batch]:
    """Pictures whose halves are of one class each, so that cells have labels; the target's are unknown."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.zeros(2, 32, 64, dtype=torch.int64)
    label[:, :, 32:] = 8
    image = torch.randn(2, 3, 32, 64, generator=generator) + label[:, None] / 8
    source = Batch(image, label, ["a", "b"], image)
    target = Batch(image.flip(3), torch.full_like(label, 255), ["c", "d"], image.flip(3))
    return {"source": source, "target": target}


def learnt(system: str, *more: str, steps: int = 3) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """The encoder's weights after some steps, away from the start, and the losses of each. Confidences are planted: a
    threshold of 0 makes all labels count."""
    chosen = tiny(system, "weighting=threshold", "threshold=0.0", "lr=0.01", "mixed_photometric=none", "mixed_blur=0", *more)
    method = build_method(chosen, build_segmenter(chosen)).train()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        for weight in method.segmenter.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    streams = {name: itertools.repeat(batch) for name, batch in batches(1).items()}
    log = train(method, streams, LoopSettings(steps=steps, warmup=0, log_every=1), quiet=True)
    network = getattr(method.segmenter, "segmenter", method.segmenter)
    encoder = torch.cat([weight.detach().flatten() for weight in network.skip.parameters()])
    return encoder, [record["losses"] for record in log.records]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_loss_is_finite_acts_on_the_encoder_and_can_be_switched_off(system):
    """A system that is source-only, or DACS, under another name would fail here."""
    encoder, losses = learnt(system)
    assert all(step.keys() == LOSSES[system] for step in losses)
    assert all(0 <= value < 100 for step in losses for value in step.values()), losses
    assert all(losses[-1].values()), "0 where the random network has not yet predicted a class of the source"
    switches = {"mixed": "lambda_mix=0"} | {term: f"terms=-{term}" for term in terms_of(system)}
    for name, off in switches.items():
        without, others = learnt(system, off)
        assert not torch.equal(encoder, without), name
        left = {loss for loss in LOSSES[system] if name == "mixed" or not loss.startswith(f"{name}.")}
        assert all(step.keys() == left for step in others)


@pytest.mark.parametrize("system", ["daformer", "hrda", "mic"])
def test_at_the_start_the_distance_is_0_and_its_gradient_finite(system):
    chosen = tiny(system)
    method = build_method(chosen, build_segmenter(chosen)).train()
    first = next(method.losses(**batches(1)))
    assert first["feature_distance.distance"].item() == 0
    first["feature_distance.distance"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.segmenter.parameters())


@pytest.mark.parametrize("pair", ["ministreet", "ministreet_camvid", "gta5_cityscapes", "synthia_cityscapes", "camvid_dusk"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_there_is_a_plan_for_every_pair_of_street_pictures(system, pair):
    stages = plan(pair, system)
    assert [stage.kind for stage in stages] == ["train", "test"]
    chosen = stages[0].recipe
    assert set(chosen.terms) == terms_of(system)
    method = build_meta(chosen)  # it can be built, and the classes are the pair's
    if "feature_distance" in chosen.terms:
        assert max(chosen.terms["feature_distance"].classes) < method.segmenter.num_classes
    assert (chosen.network == "hrda") == (system in ON_HRDA)


def test_published_constants():
    daformer, hrda, mic = (recipe("gta5_cityscapes", system) for system in ("daformer", "hrda", "mic"))
    for chosen in (daformer, hrda, mic):
        loop, optimiser = chosen.loop, chosen.optimiser
        assert (loop.steps, loop.schedule_steps, loop.power, loop.warmup, chosen.batch_size) == (40_000, 40_000, 1.0, 1_500, 2)
        assert (optimiser.optimiser, optimiser.lr, optimiser.head_factor, optimiser.weight_decay) == ("adamw", 6e-5, 10.0, 0.01)
        assert chosen.settings.teacher.alpha == 0.999 and chosen.settings.labels.threshold == 0.968
        assert (chosen.sampling, chosen.rare_temperature, chosen.rare_pixels) == ("rare-class", 0.01, 3000)
        assert chosen.crop_share == 0.75
        assert chosen.terms["feature_distance"].weight == 0.005 and chosen.select == "last"
        assert chosen.network_options["size"] == "b5" and chosen.network_options["imagenet"] == "mit_b5.pth"
    assert (daformer.crop, hrda.crop, mic.crop) == ((512, 512), (1024, 1024), (1024, 1024))
    assert (daformer.test_size, hrda.test_size) == ((512, 1024), (1024, 2048)) and hrda.network_options["window"] == 1024
    assert [round(share * 1024) for share in hrda.target_margins[:2]] == [30, 240]
    assert [round(share * 512) for share in daformer.target_margins[:2]] == [15, 120]
    masks = mic.terms["masked_consistency"]
    assert (masks.masks.mask_cell, masks.masks.mask_hidden, masks.weight, masks.masked_blur) == (64, 0.7, 1.0, 1.0)
    assert {masks.masked_photometric, *(s.settings.mixed_photometric for s in (daformer, hrda, mic))} == {"small-jitter"}
    assert recipe("synthia_cityscapes", "hrda").source_size == (1520, 2560)


def test_published_constants_of_the_contrastive_systems():
    one, two, cluda, sepico = (recipe("gta5_cityscapes", s) for s in ("pipa-daformer", "pipa-hrda", "cluda-hrda", "sepico"))
    assert [chosen.loop.steps for chosen in (one, two, cluda, sepico)] == [60_000, 60_000, 40_000, 40_000]
    assert [chosen.crop for chosen in (one, two, cluda, sepico)] == [(640, 640), (1024, 1024), (1024, 1024), (640, 640)]
    assert [chosen.rare_temperature for chosen in (one, two, cluda, sepico)] == [0.1, 0.01, 0.01, 0.01]
    assert one.test_size == sepico.test_size == (640, 1280) and two.test_size == cluda.test_size == (1024, 2048)
    for chosen, patches in ((one, 0.1), (two, 0.01)):
        pixel, patch = chosen.terms["pixel_contrast"], chosen.terms["patch_contrast"]
        assert (pixel.weight, pixel.contrast_temperature, pixel.anchors, pixel.per_class) == (0.1, 0.1, 1024, 100)
        assert (patch.weight, patch.first_step, patch.patch_temperature, patch.least_confidence) == (patches, 10_000, 0.1, 0.9)
        assert (patch.queue_cells, patch.queue_steps) == (1600, 3)
        assert (patch.patch_photometric, patch.patch_blur) == ("mild", 0.0)
    assert (cluda.terms["resolution_contrast"].grid, cluda.terms["resolution_contrast"].contrast_temperature) == (65, 1.0)
    contrast = sepico.terms["distribution_contrast"]
    assert (contrast.contrast_temperature, contrast.loss_from, contrast.cell_share) == (100, 3000, 0.75)
    assert (contrast.projector_hidden, contrast.projector_out, contrast.kind) == (256, 512, "distribution")
    assert "feature_distance" not in sepico.terms and sepico.sampling == "rare-class"
    assert sepico.settings.target_crops == "balanced" and sepico.streams["target"].whole and not sepico.streams["source"].whole
    assert [chosen.photometric for chosen in (one, two, cluda, sepico)] == ["none", "none", "none", "small-jitter"]
    assert {chosen.settings.mixed_photometric for chosen in (one, two, cluda, sepico)} == {"small-jitter"}
    assert contrast.target_photometric == "small-jitter"
    assert recipe("gta5_cityscapes", "dacs").settings.mixed_photometric == "jitter"
    assert build_meta(sepico).streams(sepico.settings)["source"].plain  # what the memory takes in


def test_the_published_start_is_asked_for_by_name(tmp_path, monkeypatch):
    """Training does not begin at random where the file is missing."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no file mit_b5.pth"):
        build_segmenter(recipe("gta5_cityscapes", "daformer"))


@pytest.mark.parametrize("scale", ["ministreet", "gta5_cityscapes"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_its_ablation_has_controls_and_rows_that_differ(system, scale):
    rows = ablation_rows(system, scale)
    own = [row for row in rows if row.method == system]
    recipes = [row_stages(row, scale, (), 0)[0].recipe for row in own]
    assert len({json.dumps(chosen.to_dict()) for chosen in recipes}) == len(own) >= 2
    by_name = {row.name: row for row in rows}
    for row in own:
        if row.control is None:  # of another network than the first row's, which a gain would be a part of
            first, mine = (row_stages(each, scale, (), 0)[0].recipe for each in (rows[0], row))
            networks = [(recipe.network, recipe.network_options) for recipe in (first, mine)]
            assert scale != "ministreet" and networks[0] != networks[1]
            continue
        assert row.control in by_name
        if scale == "ministreet":  # equal network, and as much compute
            control = row_stages(by_name[row.control], scale, (), 0)[0].recipe
            mine = row_stages(row, scale, (), 0)[0].recipe
            assert (control.network, control.network_options) == (mine.network, mine.network_options)
            assert training_cost(control) >= training_cost(mine) > training_cost(control) - step_cost(control)
    assert standard_rows("ministreet", (system,))


def test_an_estimate_counts_the_windows_of_a_test():
    """HRDA at 2048x1024: three windows of 1024 x 1024, each seen two and a half times."""
    sizes = ("steps=1", "network_options={'of': 'small', 'width': 8, 'window': 1024}", "test_size=2048x1024")
    plain = recipe("ministreet", "source-only").override("network=small", "network_options={'width': 8}", sizes[2])
    two = recipe("ministreet", "source-only").override("network=hrda", *sizes)
    counts = Counts(1, 1, 10)
    one, more = (estimate([Stage("test", "test", each, network="x")], counts, 1.0)[0].seconds for each in (plain, two))
    assert more == 3 * 0.5 * 2.5 * one


def test_steps_cost_what_they_see():
    """In passes of one resolution: a trained pass of two is half of one, a teacher's two and a half."""
    daformer, hrda, mic = (recipe("ministreet", system).override("steps=10") for system in ("daformer", "hrda", "mic"))
    assert step_cost(daformer) == 7 and training_cost(daformer) == 10 * (7 + 1)
    assert step_cost(hrda) == 5.5 and training_cost(hrda) == 10 * (5.5 + 0.25)
    assert training_cost(mic) == 10 * (5.5 + 0.25 + 1.5)


def test_skip_bad_leaves_a_broken_picture_out(pair, tmp_path):
    import shutil

    root = shutil.copytree(pair.source.partition(":")[2], tmp_path / "game")
    sorted((root / "images").glob("*.png"))[0].write_bytes(b"no picture")
    broken = replace(pair, source=f"gta5:{root}", skip_bad=True)
    chosen = tiny("mic", "rare_pixels=0", "start_steps=1")
    assert train_recipe(chosen, broken, tmp_path / "run", quiet=True).is_file()
    with pytest.raises(ValueError, match="--skip-bad|cannot be read|no picture"):
        train_recipe(chosen, replace(broken, skip_bad=False), tmp_path / "other", quiet=True)


def no_dropout() -> None:
    torch.nn.Dropout2d.forward = lambda self, x: x


@pytest.mark.parametrize("system", [
    "mic", *(pytest.param(system, marks=pytest.mark.full) for system in ("pipa-hrda", "cluda-hrda", "sepico")),
])  # fmt: skip
def test_two_processes_are_one(system, pair, tmp_path):
    """The losses of the first step: windows, masks, colours, anchors and the rare classes of the whole batch.

    Dropout is each process's own, as in training with any network. In cluda-hrda it is in a loss of the first step, by the
    weights of pairs: it is compared without.
    """
    network, before = network_of(system), no_dropout if system == "cluda-hrda" else None
    if system in ON_HRDA:
        network = (network[0], network[1].replace("}", ", 'attention_bn': 'sync'}"))
    settings = [*TINY, *network, *tiny_terms(system), "rare_pixels=0", "start_steps=0", "steps=3"]
    settings += ["uncertain_from=0"] * (system == "cluda-hrda")  # windows of mixed pictures by their entropy
    words = ["train", system, "--source", pair.source, "--target", pair.target, "--device", "cpu", "--quiet"]
    words += [word for setting in settings for word in ("--set", setting)]
    found = {}
    for count in (1, 2):
        out = tmp_path / str(count)
        statuses, said = uda([*words, "--out", str(out)], tmp_path / f"{count}.txt", tmp_path / "cache", count, before)
        assert statuses == [0] * count, said
        lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
        found[count] = [json.loads(line)["losses"] for line in lines]
    first = [losses[0] for losses in found.values()]  # AdamW makes of a rounding in later steps what it likes
    close(list(first[0].values()), list(first[1].values()), bound(2 * 32 * 64, torch.float32, 20.0))
    assert found[1][0].keys() == found[2][0].keys() == LOSSES[system]
    if system == "mic":
        draws = [load_checkpoint(tmp_path / str(count) / "best.pt")["segmenter"]["draws"].item() for count in (1, 2)]
        assert draws == [9, 9], "source, mixed and masked pictures of three steps"


def test_scores_are_quoted_with_their_source():
    for system in SYSTEMS:
        assert {"GTA5", "SYNTHIA"} == PAPERS[system].scores.keys()
        assert all(score.source for scores in PAPERS[system].scores.values() for score in scores)
