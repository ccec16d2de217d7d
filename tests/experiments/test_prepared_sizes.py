"""Prepared data sets that are smaller than a stage reads them are told, before a run and in its report."""

import dataclasses
from shutil import rmtree

import pytest

from course_lib.data import prepare
from course_lib.experiments.compare import compare
from course_lib.experiments.parts import Pair
from course_lib.experiments.plan import plan, run_plan
from course_lib.experiments.prepared_sizes import enlarged
from course_lib.recipes import Row, Stage, recipe
from course_lib.report import is_ministreet, write_run_report
from tests.experiments.conftest import DISCRIMINATOR, TINY

SMALL = (*TINY, "network_options={'width': 16}")


@pytest.fixture
def prepared(pair, tmp_path) -> Pair:
    """Both domains at 32x16, half of the originals' 64x32."""
    texts = {}
    for domain, text in (("source", pair.source), ("target", pair.target)):
        prepare(text, tmp_path / domain, (16, 32), workers=1, progress=False)
        texts[domain] = f"prepared:{tmp_path / domain}"
    return dataclasses.replace(pair, **texts)


def test_a_set_that_was_prepared_too_small_is_told_with_the_size_it_wants(prepared, pair, tmp_path):
    stages = plan("ministreet", "proca", SMALL)
    source, target = enlarged(stages, prepared)
    assert source.startswith(f"prepared:{tmp_path / 'source'} was prepared at 32x16; source, prototypes, contrast")
    assert "Prepare it again with --size 64x32, or give the originals (gta5:PATH)" in source
    assert "labels, self-training want up to 64x32" in target
    assert enlarged(stages, pair) == []
    half = (*SMALL, "source_size=32x16", "target_size=32x16", "test_size=32x16")
    assert enlarged(plan("ministreet", "proca", half), prepared) == []
    scaled = plan("ministreet", "proca", (*half, "scale=(0.5, 4.0)"))
    assert all("up to 64x32" in text for text in enlarged(scaled, prepared)), "no more than the originals have"


@pytest.mark.parametrize("method, domains", [
    ("source-only", ["source"]), ("target-only", ["target"]), ("adaptsegnet", ["source", "target"]),
    ("self-training", ["target"]), ("bn-control", ["source", "target"]),
])  # fmt: skip
def test_a_training_is_asked_for_the_domains_that_it_reads_alone(method, domains, prepared):
    chosen = recipe("ministreet", method).override(*SMALL, *["lambda_source=0"] * (method == "self-training"))
    said = enlarged([Stage(method, "train", chosen)], prepared)
    assert [text.partition(" was ")[0].rpartition("/")[2] for text in said] == domains


def test_a_comparison_on_prepared_sets_says_that_they_are_too_small(pair, tmp_path, capsys):
    prepare(pair.source, tmp_path / "source", (16, 32), workers=1, progress=False)
    small = dataclasses.replace(pair, source=f"prepared:{tmp_path / 'source'}")
    results = compare("ministreet", small, tmp_path / "out", seeds=(0,), rows=(Row("source-only", "source-only"),),
                      overrides=SMALL, jobs=1)  # fmt: skip
    assert "Note: prepared:" in capsys.readouterr().err and "would enlarge it" in results["notes"][0]
    assert f"- **{results['notes'][0]}**" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")


def test_a_run_on_prepared_sets_reports_what_they_are(prepared, tmp_path):
    prepare(prepared.validation.partition("@")[0], tmp_path / "val", (16, 32), splits=("val",), workers=1, progress=False)
    given = dataclasses.replace(prepared, validation=f"prepared:{tmp_path / 'val'}@val")
    stages = plan("ministreet", "adaptsegnet", (*SMALL, DISCRIMINATOR))
    run_plan(stages, given, tmp_path / "run", quiet=True)
    text = write_run_report("adaptsegnet", stages, given, tmp_path / "run")
    assert "Scored on prepared labels, which were resized" in text and "of another data set, GTA5 -> Cityscapes" in text
    assert text.count("would enlarge it") == 3


def test_the_report_is_written_whatever_became_of_the_data(prepared, pair, tmp_path, monkeypatch):
    assert is_ministreet(pair) and is_ministreet(prepared)
    gone = dataclasses.replace(prepared, source="prepared:~/gone", target="gta5:~/gone", validation=None)
    assert not is_ministreet(gone)
    monkeypatch.setenv("HOME", str(tmp_path))
    at_home = dataclasses.replace(gone, source="prepared:~/source")
    assert is_ministreet(at_home)
    stages = plan("ministreet", "adaptsegnet", (*SMALL, DISCRIMINATOR))
    run_plan(stages, prepared, tmp_path / "run", quiet=True)
    rmtree(tmp_path / "source")
    assert "| road |" in write_run_report("adaptsegnet", stages, prepared, tmp_path / "run")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "manifest.json").write_text('{"files": {}}', encoding="utf-8")
    assert not is_ministreet(dataclasses.replace(gone, target=f"gta5:{tmp_path / 'real'}"))
