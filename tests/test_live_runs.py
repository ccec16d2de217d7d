"""`benchmarks.live_runs` runs a page's own cells on other pictures and seeds, or says that it cannot."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import live_runs


@pytest.mark.parametrize("page", ["02", "04", "05"])
def test_a_page_runs_on_other_pictures_and_seeds(page):
    code = "\n".join(live_runs.cells(page, 30, (100, 101)))
    assert "SEEDS = (100, 101)" in code and '("gta5", 31), ("cityscapes", 32)' in code and ", 33, size" in code
    assert re.search(r"(?m)^gains = \{", code), "the table that the benchmark reads"
    assert '("gta5", 21)' not in code and ", 23, size" not in code


def page_of(folder: Path, *code: str) -> None:
    cells = [{"cell_type": "code", "source": [text]} for text in code]
    (folder / "09_page.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")


PICTURES = 'drawn = (("gta5", 21), ("cityscapes", 22)), (max(48, 120), 23, size := 96)'


def test_the_gains_are_those_that_the_page_computes_and_its_assertions_do_not_stop_it(tmp_path, monkeypatch):
    monkeypatch.setattr(live_runs, "NOTEBOOKS", tmp_path)
    table = "gains = {'a': [drawn[0][0][1] + seed for seed in SEEDS]}"
    page_of(tmp_path, PICTURES, f"SEEDS = (0, 1)\n{table}\nassert False", "1 / 0")
    assert live_runs.live_gains("09", 30, (100, 101)) == {"a": [131, 132]}
    page_of(tmp_path, PICTURES, "SEEDS = (0, 1)\nassert False")
    with pytest.raises(ValueError, match="No cell of notebook 09 fills `gains`"):
        live_runs.live_gains("09", 30, (100,))
    page_of(tmp_path, PICTURES.replace("21", "24"), "SEEDS = (0, 1)")
    with pytest.raises(ValueError, match=r"09_page.ipynb: wanted one place like .*gta5.*, found 0"):
        live_runs.live_gains("09", 30, (100,))
