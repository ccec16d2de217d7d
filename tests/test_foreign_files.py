"""No command deletes or overwrites a file of somebody else: each runs in a folder that holds foreign files."""

import ast
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import course_lib
from course_lib import cli
from course_lib.data import ministreet
from course_lib.demo import run_demo
from course_lib.engine import CheckpointError
from course_lib.experiments.compare import compare
from course_lib.experiments.plan import forget_plan, plan, run_plan
from course_lib.experiments.rows import ablation_rows
from course_lib.experiments.train import Pair, train_recipe
from course_lib.files import made_by
from course_lib.recipes import Row
from course_lib.recipes import recipe as find_recipe

TINY = ("network=small", "steps=2", "start_steps=0", "batch_size=2", "log_every=1",
        "source_size=64x32", "target_size=64x32", "test_size=64x32")  # fmt: skip


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> Pair:
    root = tmp_path_factory.mktemp("ministreet")
    options = {"size": (32, 64), "workers": 1, "progress": False}
    source = ministreet.make("gta5", root / "gta5", 4, 1, **options)
    target = ministreet.make("cityscapes", root / "cityscapes", 4, 2, **options)
    ministreet.make("cityscapes", root / "cityscapes_val", 2, 3, split="val", **options)
    return Pair(f"gta5:{source}", f"cityscapes:{target}", f"cityscapes:{root / 'cityscapes_val'}@val")


@pytest.fixture(scope="session")
def checkpoint(pair, tmp_path_factory) -> Path:
    recipe = find_recipe("ministreet", "source-only").override(*TINY)
    return train_recipe(recipe, pair, tmp_path_factory.mktemp("run") / "out", quiet=True)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def uda(monkeypatch, capsys, *words) -> str:
    """What a command that fails prints; "" for one that works."""
    monkeypatch.setattr("sys.argv", ["uda", *map(str, words)])
    try:
        cli.main()
    except SystemExit as end:
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        return printed if end.code else ""
    return ""


@pytest.fixture
def foreign(tmp_path) -> Path:
    """A folder with pictures and notes of the user."""
    folder = tmp_path / "mine"
    (folder / "holiday" / "aachen").mkdir(parents=True)
    for name in ("beach.png", "00001.png", "holiday/aachen/sunset.png"):
        Image.fromarray(np.full((32, 64, 3), 7, np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("do not lose", encoding="utf-8")
    (folder / ".draft.tmp").write_text("an editor's", encoding="utf-8")
    return folder


# ---- uda label ------------------------------------------------------------------------------------------------------


def test_label_refuses_a_folder_that_holds_other_files(checkpoint, pair, foreign, monkeypatch, capsys):
    before = content(foreign)
    said = uda(monkeypatch, capsys, "label", checkpoint, "--target", pair.target, "--out", foreign, "--quiet")
    assert re.search(r"holds other files \(.*\), and no record of labels that `uda label` wrote. Give --out a new", said)
    assert content(foreign) == before


@pytest.mark.parametrize("where", [".", "leftImg8bit/train/labels", "..", "new_labels"])
def test_label_refuses_a_folder_in_or_around_the_data(where, checkpoint, pair, monkeypatch, capsys):
    root = Path(pair.target.removeprefix("cityscapes:"))
    before = content(root)
    said = uda(monkeypatch, capsys, "label", checkpoint, "--target", pair.target, "--out", root / where, "--quiet")
    assert "lie in one another. Data that is read is never touched: give a folder beside it" in said
    assert content(root) == before


def test_label_replaces_its_own_files_and_no_others(checkpoint, pair, tmp_path, monkeypatch, capsys):
    words = ("label", checkpoint, "--target", pair.target, "--out", tmp_path / "out", "--quiet")
    assert uda(monkeypatch, capsys, *words) == ""
    first = content(tmp_path / "out")
    name = next(name for name in first if name.endswith(".png"))
    mine = {"mine.png": b"of the user", f"{Path(name).parent.as_posix()}/mine.png": b"also"}
    for path, data in mine.items():
        (tmp_path / "out" / path).write_bytes(data)
    assert uda(monkeypatch, capsys, *words, "--set", "label_share=0.9") == ""
    second = content(tmp_path / "out")
    assert second[name] != first[name] and second.keys() == first.keys() | mine.keys()
    assert all(second[path] == data for path, data in mine.items())


def test_label_refuses_the_name_of_a_file_that_came_later(checkpoint, pair, tmp_path, monkeypatch, capsys):
    words = ("label", checkpoint, "--target", pair.target, "--out", tmp_path / "out", "--quiet")
    assert uda(monkeypatch, capsys, *words) == ""
    record = tmp_path / "out" / ".labels.json"
    noted = json.loads(record.read_text(encoding="utf-8"))
    lost = noted["files"].pop()  # as if a list file had named fewer pictures
    record.write_text(json.dumps(noted | {"labels_of": "another network"}), encoding="utf-8")
    before = content(tmp_path / "out")
    said = uda(monkeypatch, capsys, *words)
    assert f"{lost}' was not written by `uda label`, and a label would get its name" in said
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["../outside.png", "link/outside.png", "ABSOLUTE"])
def test_a_record_that_somebody_changed_deletes_nothing_outside(name, checkpoint, pair, tmp_path, monkeypatch, capsys):
    words = ("label", checkpoint, "--target", pair.target, "--out", tmp_path / "out", "--quiet")
    assert uda(monkeypatch, capsys, *words) == ""
    (tmp_path / "outside.png").write_bytes(b"kept")
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    record = tmp_path / "out" / ".labels.json"
    noted = json.loads(record.read_text(encoding="utf-8"))
    noted["files"] += [name.replace("ABSOLUTE", str(tmp_path / "outside.png"))]
    record.write_text(json.dumps(noted), encoding="utf-8")
    assert uda(monkeypatch, capsys, *words, "--set", "label_share=0.9") == ""
    assert (tmp_path / "outside.png").read_bytes() == b"kept"


# ---- uda data make, prepare -----------------------------------------------------------------------------------------


def make(out: Path, count: int = 2, layout: str = "gta5") -> tuple:
    return ("data", "make", "ministreet", "--as", layout, "--out", out, "--count", count, "--size", "64x32", "--quiet")


@pytest.mark.parametrize("layout", ["gta5", "synthia", "cityscapes"])
def test_make_refuses_a_folder_that_holds_other_files(layout, tmp_path, monkeypatch, capsys):
    names = {"gta5": "images/00001.png", "synthia": "RGB/0000000.png", "cityscapes": "leftImg8bit/train/aachen/a.png"}
    out = tmp_path / "GTA5"
    (picture := out / names[layout]).parent.mkdir(parents=True)
    picture.write_bytes(b"a real one")
    said = uda(monkeypatch, capsys, *make(out, layout=layout))
    assert re.search(r"holds other files \(.*\), and no set of MiniStreet. Give --out a new or an empty folder", said)
    (out / "manifest.json").write_text('{"name": "an app"}', encoding="utf-8")
    assert "holds other files" in uda(monkeypatch, capsys, *make(out, layout=layout))
    assert content(out) == {names[layout]: b"a real one", "manifest.json": b'{"name": "an app"}'}


def test_make_adds_to_its_own_set_but_not_over_other_files(tmp_path, monkeypatch, capsys):
    out = tmp_path / "set"
    assert uda(monkeypatch, capsys, *make(out)) == ""
    (out / "images" / "00004.png").write_bytes(b"of the user")
    before = content(out)
    assert "00004.png' is not of this set and would be overwritten (1 such files)" in uda(monkeypatch, capsys, *make(out, 5))
    assert content(out) == before
    (out / "images" / "00004.png").unlink()
    assert uda(monkeypatch, capsys, *make(out, 5)) == "" and len(list((out / "images").iterdir())) == 5


def test_make_continues_a_run_that_was_killed(tmp_path, monkeypatch, capsys):
    """The plan that it wrote first says that pictures without a line in the journal are its own."""
    out = tmp_path / "set"
    monkeypatch.setattr(ministreet.making, "write_picture", lambda out, settings, index: interrupt(out, settings, index))
    draw = ministreet.making.encode

    def interrupt(out, settings, index):
        scene = ministreet.making.render(ministreet.making.scene_seed(0, "train", index), "game", (32, 64), settings["gap"])
        for name, data in draw(scene, "gta5", "train", index).items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(data)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ministreet.make("gta5", out, 3, 0, size=(32, 64), workers=1, progress=False)
    assert (out / "images" / "00001.png").is_file() and not (out / "manifest.json").exists()
    monkeypatch.undo()
    assert uda(monkeypatch, capsys, *make(out, 3)) == "" and ministreet.verify(out) == len(content(out)) - 1
    assert not (out / ".journal").exists()


def test_prepare_refuses_names_of_files_that_it_did_not_write(pair, tmp_path, monkeypatch, capsys):
    out = tmp_path / "prepared"
    words = ("data", "prepare", pair.source, "--out", out, "--size", "32x16", "--quiet")
    assert uda(monkeypatch, capsys, *words, "--split", "train") == ""
    (out / "all" / "images").mkdir(parents=True)
    (out / "all" / "images" / "00001.jpg").write_bytes(b"of the user")
    (out / ".draft.tmp").write_text("an editor's", encoding="utf-8")
    os.utime(out / ".draft.tmp", (1, 1))
    before = content(out)
    for _ in range(2):  # a refusal leaves nothing that would let the next call pass
        said = uda(monkeypatch, capsys, *words, "--split", "all")
        assert "00001.jpg' is not of this set and would be overwritten (1 such files)" in said
        assert content(out) == before
    (out / "all" / "images" / "00001.jpg").unlink()
    assert uda(monkeypatch, capsys, *words, "--split", "all") == ""
    assert (out / ".draft.tmp").exists()


# ---- results --------------------------------------------------------------------------------------------------------


def results(command: str, checkpoint: Path, pair: Pair, out: Path) -> tuple:
    return {
        "evaluate": ("evaluate", checkpoint, "--data", pair.validation, "--out", out, "--quiet"),
        "data check": ("data", "check", pair.source, "--out", out, "--quiet"),
    }[command]


@pytest.mark.parametrize("command", ["evaluate", "data check"])
def test_a_result_replaces_only_a_result_of_its_own_kind(command, checkpoint, pair, tmp_path, monkeypatch, capsys):
    out = tmp_path / "mine.json"
    out.write_text('{"scores": "of another program"}', encoding="utf-8")
    words = results(command, checkpoint, pair, out)
    wanted = f"mine.json exists and is no result of `uda {command}`, so it is not overwritten."
    assert wanted in uda(monkeypatch, capsys, *words)
    assert out.read_text(encoding="utf-8") == '{"scores": "of another program"}'
    assert uda(monkeypatch, capsys, *words, "--replace") == "" and made_by(out, f"uda {command}")
    assert uda(monkeypatch, capsys, *words) == "", "its own result"
    other = next(each for each in ("evaluate", "data check") if each != command)
    assert "is not overwritten" in uda(monkeypatch, capsys, *results(other, checkpoint, pair, out))
    assert "is a folder; the result is a file" in uda(monkeypatch, capsys, *results(command, checkpoint, pair, tmp_path))


@pytest.mark.parametrize("replace", [(), ("--replace",)])
def test_evaluate_never_replaces_the_checkpoint(replace, checkpoint, pair, monkeypatch, capsys):
    before = checkpoint.read_bytes()
    said = uda(monkeypatch, capsys, *results("evaluate", checkpoint, pair, checkpoint), *replace)
    assert "best.pt is read by this command, so it cannot be its output" in said
    assert checkpoint.read_bytes() == before


def test_predict_replaces_only_its_own_pictures(checkpoint, foreign, tmp_path, monkeypatch, capsys):
    words = ("predict", checkpoint, foreign / "beach.png", "--out", tmp_path / "out")
    assert uda(monkeypatch, capsys, *words) == "" and uda(monkeypatch, capsys, *words) == ""
    (mine := tmp_path / "out" / "beach_overlay.png").write_bytes((foreign / "00001.png").read_bytes())
    before = content(tmp_path / "out")
    assert "beach_overlay.png exists and is no result of `uda predict`" in uda(monkeypatch, capsys, *words)
    assert content(tmp_path / "out") == before
    assert uda(monkeypatch, capsys, *words, "--replace") == "" and made_by(mine, "uda predict")
    for name in ("x.png", "x_labels.png"):
        (foreign / name).write_bytes((foreign / "beach.png").read_bytes())
    words = ("predict", checkpoint, foreign / "x.png", foreign / "x_labels.png", "--out", foreign, "--replace")
    said = uda(monkeypatch, capsys, *words)
    assert "x_labels.png is read by this command, so it cannot be its output" in said


# ---- training, stages, comparisons ----------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [(), ("--replace",), ("--resume",)])
@pytest.mark.parametrize("name", ["best.pt", "step_0000001.pt", "recipe.json", "log.jsonl"])
def test_train_keeps_files_that_no_run_wrote(name, flag, pair, foreign, monkeypatch, capsys):
    (foreign / name).write_text("another program's", encoding="utf-8")
    before = content(foreign)
    sets = [word for text in TINY for word in ("--set", text)]
    words = ("train", "source-only", "--source", pair.source, "--target", pair.target, "--out", foreign, *sets, "--quiet")
    assert re.search(r"(holds a run already|no run wrote it|is no recipe of a run)", uda(monkeypatch, capsys, *words, *flag))
    assert content(foreign) == before


def test_train_replaces_a_run_and_nothing_else(pair, foreign, monkeypatch, capsys):
    before = content(foreign)
    sets = [word for text in TINY for word in ("--set", text)]
    words = ("train", "source-only", "--source", pair.source, "--target", pair.target, "--out", foreign, *sets, "--quiet")
    (foreign / "step_final.pt").write_text("of the user", encoding="utf-8")
    for flag in ((), ("--replace",)):
        assert uda(monkeypatch, capsys, *words, *flag) == ""
    assert (before | {"step_final.pt": b"of the user"}).items() <= content(foreign).items()


@pytest.mark.parametrize("name", ["stages.json", "report.md", "1_adapt/best.pt", "2_test/scores.json"])
def test_run_trains_nothing_where_it_would_overwrite(name, pair, foreign, monkeypatch, capsys):
    (foreign / name).parent.mkdir(exist_ok=True)
    (foreign / name).write_text("{}", encoding="utf-8")
    before = content(foreign)
    sets = [word for text in TINY for word in ("--set", text)]
    words = ("run", "adaptsegnet", "--source", pair.source, "--target", pair.target, "--validation", pair.validation)
    said = uda(monkeypatch, capsys, *words, "--out", foreign, *sets, "--quiet")
    assert re.search("(is not overwritten|no run wrote it)", said)
    assert content(foreign) == before


def test_forgetting_a_plan_removes_what_its_stages_wrote(pair, tmp_path):
    stages = plan("ministreet", "proca", (*TINY, "start_steps=1"))
    run_plan(stages, pair, tmp_path, quiet=True)
    written = content(tmp_path).keys()
    assert {"stages.json", "2_prototypes/prepared.pt"} <= written
    mine = {"notes.txt", "2_prototypes/figure.png", "1_source/mine.json"}
    for name in mine:
        (tmp_path / name).write_text("keep me", encoding="utf-8")
    (tmp_path / "stages.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FileExistsError, match="stages.json exists and is no result of `uda run`"):
        forget_plan(stages, tmp_path)
    assert content(tmp_path).keys() == written | mine, "nothing was removed"
    (tmp_path / "stages.json").write_text('{"made_by": "uda run"}', encoding="utf-8")
    forget_plan(stages, tmp_path)
    assert content(tmp_path).keys() == mine


@pytest.mark.parametrize("name", ["results.json", "results.csv", "results.md", "source-only/seed0/scores.json",
                                  "source-only/seed0/best.pt"])  # fmt: skip
def test_compare_trains_nothing_where_it_would_overwrite(name, pair, foreign):
    (foreign / name).parent.mkdir(parents=True, exist_ok=True)
    (foreign / name).write_text("{}", encoding="utf-8")
    before = content(foreign)
    with pytest.raises((FileExistsError, CheckpointError), match="is not overwritten|no run wrote it"):
        compare("ministreet", pair, foreign, seeds=(0,), rows=(Row("source-only", "source-only"),), overrides=TINY, quiet=True)
    assert content(foreign) == before


def test_compare_keeps_foreign_files_beside_its_rows(pair, foreign):
    before = content(foreign)
    (row,) = (row for row in ablation_rows("proca", "ministreet") if row.name == "F+O")
    for more in ((), ("lr=1e-3",)):  # the second replaces the first
        compare("ministreet", pair, foreign, seeds=(0,), rows=(row,), overrides=(*TINY, *more), quiet=True, jobs=1)
        (foreign / "F_O" / "seed0" / "mine.txt").write_text("keep me", encoding="utf-8")
    assert before.items() <= content(foreign).items() and (foreign / "F_O" / "seed0" / "mine.txt").exists()


@pytest.mark.parametrize("name", ["report.html", "figures/iou.png", "results.json"])
def test_demo_makes_nothing_where_it_would_overwrite(name, foreign, monkeypatch):
    nowhere = Pair("gta5:none", "cityscapes:none", "cityscapes:none")
    monkeypatch.setattr("course_lib.demo.ministreet_pair", lambda *_, **__: nowhere)
    (foreign / name).parent.mkdir(exist_ok=True)
    (foreign / name).write_text("mine", encoding="utf-8")
    before = content(foreign)
    with pytest.raises(FileExistsError, match="is not overwritten"):
        run_demo(foreign, quick=True, quiet=True)
    assert content(foreign) == before


def test_ablate_refuses_a_figure_of_the_user(foreign, monkeypatch, capsys):
    (foreign / "ablation.png").write_bytes(b"mine")
    said = uda(monkeypatch, capsys, "ablate", "proca", "--out", foreign)
    assert "ablation.png exists and is no result of `uda ablate`" in said
    assert (foreign / "ablation.png").read_bytes() == b"mine"


# ---- the table of all places ----------------------------------------------------------------------------------------

TABLE = Path(__file__).parents[1] / "docs" / "files.md"
CALLS = {"unlink", "rmtree", "rmdir", "write_text", "write_bytes", "write_whole", "write_result", "write_json",
         "save_checkpoint", "second_name", "symlink_to"}  # fmt: skip


def places() -> set[tuple[str, str]]:
    """(file, function) of every call in the package that deletes, renames or writes a file."""
    found = set()
    package = Path(course_lib.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                found |= {(path.relative_to(package).as_posix(), function.name) for call in ast.walk(function) if touches(call)}
    return found


def touches(call: ast.AST) -> bool:
    if not isinstance(call, ast.Call):
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if name == "open":  # for writing
        modes = [word.value for word in [*call.args, *(k.value for k in call.keywords)] if isinstance(word, ast.Constant)]
        return any(isinstance(mode, str) and re.fullmatch(r"[rwax+]b?\+?", mode) and set(mode) & set("wax+") for mode in modes)
    if name in ("replace", "rename", "link"):  # of files; strings and dataclasses have a `replace` too
        return owner in ("os", "shutil") or owner in ("path", "temporary")
    return name in CALLS


def test_the_table_names_every_place():
    rows = re.findall(r"^\| `([\w/]+\.py)` `(\w+)` \|", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == places()


def test_the_table_names_tests_that_exist():
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE.read_text(encoding="utf-8")))
    assert len(named) > 20
    root = TABLE.parents[1]
    for file, name in named:
        assert f"def {name}(" in (root / file).read_text(encoding="utf-8"), f"{file} has no {name}"
