"""Words typed at the command line: the work is done, or one message says what to type instead; never a traceback.

The commands and their options are read from the program itself, so that a new one is tried, too.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
import types
import typing

import pytest
import torch
import typer
from hypothesis import strategies as st
from PIL import Image

from course_lib import cli
from course_lib.data.ministreet import crops
from course_lib.engine import save_checkpoint
from course_lib.networks import build
from course_lib.recipes import METHODS, Recipe, recipe
from course_lib.recipes.recipe import slots
from tests.data import trees
from tests.fuzz.cases import fuzz

pytestmark = pytest.mark.filterwarnings("ignore")

TINY = (
    "network=small", "network_options={'width': 8}", "batch_size=1", "source_size=64x32", "target_size=64x32",
    "test_size=64x32",
)  # fmt: skip
GAME = ("discriminator_input=image",)  # of AdaptSegNet; the small network's output is too small for its layers
SHORT = ("steps=1", "start_steps=0", "workers=0", "accumulate=1", "compile=no")  # what a fuzz test cannot wait for
ODD = st.sampled_from(
    ["", " ", "=", "-1", "0", "1", "2", "1.5", "-0.0", "nan", "inf", "1e400", "9" * 400, "9" * 5000, "0x10", "1_0", "None",
     "none", "yes", "'", '"', "[]", "()", "{}", "{[]: 1}", "{'x': 1}", "{'width': 0}", "{'width': 'a'}", "(1, 2)", "(1, 'a')",
     "(None, None)", "1x1", "0x0", "9x4", "-1x2", "64x32", "axb", "[" * 300, "-" * 3000 + "1", "1+1j", "b'a'",
     "__import__('os')", "é", "\udc80", "../x", "a:b", ":", "@", "gta5:", "a,b", "1,2", "--", "-h", "cpu:7", "cuda:99", "meta",
     "mps", "target", "last", "target-labels", "weak", "uniform", "camvid11", "synthia13", "small"]
)  # fmt: skip
odd = ODD | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10)
FITTING = {bool: "yes no", int: "-1 0 1 2 3", float: "-1 0 0.5 2 1e400", str: "small camvid11 synthia13 x", type(None): "none"}


def fitting(hint) -> list[str]:
    """Texts of this type, sensible or not."""
    if hint in FITTING:
        return FITTING[hint].split()
    inner = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return [text for option in inner for text in fitting(option)]
    if typing.get_origin(hint) is typing.Literal:
        return list(inner)
    if inner == (int, int):
        return ["64x32", "9x4", "1x1", "0x0"]
    return ["(0.5, 2)", "(0, 0)"] if typing.get_origin(hint) is tuple else ["{'width': 4}", "{'width': 0}", "{'x': 1}"]


def known(*methods: str) -> dict[str, object]:
    """The settings of these methods, by full and by short name, with their types."""
    found = {full: slot.hint for method in methods for full, slot in slots(Recipe("toy", method)).items()}
    return found | {full.rpartition(".")[2]: hint for full, hint in found.items()}


HINTS, OWN = known(*METHODS), [*known("adaptsegnet")]
keys = st.sampled_from(OWN) | st.sampled_from(OWN) | st.sampled_from([*HINTS])  # a setting of another method is an error
likely = keys.flatmap(lambda key: st.sampled_from([f"{key}={text}" for text in fitting(HINTS[key])]))
assignments = st.builds("{}={}".format, keys, odd) | odd


@fuzz("settings", texts=st.lists(assignments, min_size=1, max_size=2))
def test_settings(texts):
    start = recipe("ministreet", "adaptsegnet")
    try:
        changed = start.override(*texts)
    except ValueError as error:
        keys = [text.partition("=")[0].strip() for text in texts]
        asked = [*texts, *keys, *(key.rpartition(".")[2] for key in keys if key.rpartition(".")[2])]  # a range is its field's
        assert any(word in str(error) or repr(word) in str(error) for word in asked) and len(str(error)) < 9000
    else:
        assert repr(Recipe.from_dict(changed.to_dict())) == repr(changed)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """With two, torch's own 1x1 convolutions of so few channels write beyond their memory in bf16."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def each_street_is_drawn_once():
    """Of the many calls of `data crops`, in this process: it draws streets until one has a truck, seconds each time."""
    drawn, draw = {}, crops.crops_of_scene

    def once(settings, name, index):
        key = json.dumps([settings, name, index])
        if key not in drawn:
            drawn[key] = draw(settings, name, index)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crops, "cores", lambda: 1)
        patch.setattr(crops, "crops_of_scene", once)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data sets, checkpoints and pictures to name in a command line."""
    root = tmp_path_factory.mktemp("place")
    trees.cityscapes(root / "city")
    trees.images_and_labels(root / "game", 2)
    made_by = recipe("ministreet", "adaptsegnet").override(*TINY)
    network = build("small", 19, seed=0, width=8)
    good = save_checkpoint(root / "good.pt", {"recipe": made_by.to_dict(), "segmenter": network.state_dict()})
    (root / "torn.pt").write_bytes(good.read_bytes()[:900])
    Image.new("RGB", (20, 16)).save(root / "mine.png")
    (root / "text.png").write_text("no picture", encoding="utf-8")
    (root / "maps").mkdir()
    for label in (root / "game" / "labels").iterdir():
        with Image.open(label) as ids:
            Image.new("L", ids.size).save(root / "maps" / label.name)
    scores = {"classes": ["road"], "iou": {"road": 0.5}, "miou": 0.5, "miou_common": 0.5, "subsets": {}, "accuracy": 0.5,
              "images": 1}  # fmt: skip
    rows = {name: {"seeds": {"0": scores, "1": scores}} for name in ("adaptsegnet", "source-only")}
    (root / "results.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    return root


def usual(root) -> dict[str, list[str]]:
    """Values that make sense, by the name of the option or argument."""
    game, city = f"gta5:{root / 'game'}", f"cityscapes:{root / 'city'}"
    sets = [game, city, f"{city}@val", f"{game}@odd", f"folder:{root / 'game' / 'images'}", f"gta5:{root / 'nowhere'}"]
    return {
        "source": [game] * 4 + sets,
        "target": [city] * 4 + sets,
        "data": sets,
        "validation": sets,
        "spec": sets,
        "out": ["out", "deep/out", str(root / "mine.png"), str(root / "mine.png" / "out")],
        "checkpoint": [str(root / name) for name in ("good.pt", "good.pt", "torn.pt", "mine.png", "nowhere.pt", "")],
        "images": [str(root / name) for name in ("mine.png", "mine.png", "text.png", "nowhere.png", "", "game")],
        "predictions": [str(root / name) for name in ("maps", "maps", "game", "mine.png", "nowhere")],
        "confusion": ["matrix.csv", "out", str(root / "mine.png")],
        "results": [str(root / name) for name in ("results.json", "", "mine.png", "nowhere")],
        "row_a": ["adaptsegnet", "source-only", "adaptsegnett"],
        "row_b": ["source-only", "adaptsegnet"],
        "method": ["source-only", "adaptsegnet", "adaptsegnet", "bn-control", "target-only", "simclr"],
        "methods": ["adaptsegnet", "proca"],
        "pair": ["ministreet", "gta5_cityscapes"],
        "recipe": ["ministreet", "gta5_cityscapes", "ministreet_camvid"],
        "name": ["ministreet"],
        "layout": ["gta5", "synthia", "cityscapes"],
        "split": ["train", "val"],
        "size": ["64x32", "32x16"],
        **dict.fromkeys(("count", "per_class", "test_per_class"), ["1", "2"]),
        "seed": ["0", "7"],
        "device": ["cpu"],
        "gap": ["0", "0.5"],
        "statistics": ["running", "target"],
        "settings": [*TINY],
    }


def commands(group, before=()) -> list[tuple[tuple[str, ...], object]]:
    """Every command of the program: the words that call it, and its parameters."""
    found = []
    for name, command in group.commands.items():
        inner = commands(command, (*before, name)) if hasattr(command, "commands") else [((*before, name), command)]
        found += inner
    return found


COMMANDS = commands(typer.main.get_command(cli.app))
# would work for minutes: always sent back
LONG = {("demo",): ["--no-such-option"], ("compare",): ["--seeds", "x"], ("ablate",): ["--seeds", "x"],
        ("run",): ["--stage", "x"]}  # fmt: skip
# Of `data crops`, what it makes by itself (4,640 pictures) where the line names no number.
FEW = {("data", "crops"): {"--count": "2", "--per-class": "1", "--test-per-class": "1"}}


@st.composite
def command_lines(draw, root):
    words, command = draw(st.sampled_from(COMMANDS + [c for c in COMMANDS if c[0] not in LONG] * 3))
    values, line = usual(root), list(words)
    for parameter in command.params:
        if draw(st.integers(0, 9)) > (9 if parameter.required else 2):
            continue
        if parameter.param_type_name == "option":
            line.append(draw(st.sampled_from(parameter.opts)))
            if getattr(parameter, "is_flag", False):
                continue
        known = values.get(parameter.name)
        line.append(draw(st.sampled_from(known) if known and draw(st.integers(0, 15)) else odd))
    if draw(st.integers(0, 9)) == 0:
        line.insert(draw(st.integers(0, len(line))), draw(odd))
    if words in (("train",), ("compare",)):
        game = GAME if words == ("compare",) or "adaptsegnet" in line else ()
        for text in (*TINY, *game, draw(likely | likely | assignments), *SHORT):
            line += ["--set", text]
    few = [word for option, value in FEW.get(words, {}).items() if option not in line for word in (option, value)]
    return line + few + LONG.get(words, [])


def typed(line: list[str]) -> tuple[int, str]:
    """Exit status and stderr of a command line, run in this process in a new folder."""
    here, argv, cache = os.getcwd(), sys.argv, os.environ.get("COURSE_CACHE")
    out, error = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["COURSE_CACHE"] = str(folder)
        sys.argv = ["uda", *line]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
                cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        finally:
            os.chdir(here)
            sys.argv = argv
            os.environ.pop("COURSE_CACHE") if cache is None else os.environ.update(COURSE_CACHE=cache)
            torch.use_deterministic_algorithms(False)
    return status, error.getvalue()


def test_the_usual_values_are_good(place):
    values = usual(place)
    for line in (
        ["predict", values["checkpoint"][0], values["images"][0], "--out", "out", "--device", "cpu"],
        ["evaluate", values["checkpoint"][0], "--data", values["target"][0], "--device", "cpu", "--quiet"],
        ["score", values["predictions"][0], "--data", values["source"][0] + "@all", "--confusion", "matrix.csv"],
        ["difference", values["results"][0], values["row_a"][0], values["row_b"][0]],
        ["train", "adaptsegnet", "--source", values["source"][0], "--target", values["target"][0], "--out", "out",
         "--device", "cpu", "--quiet", *(word for text in (*TINY, *GAME, *SHORT) for word in ("--set", text))],
    ):  # fmt: skip
        status, error = typed(line)
        assert status == 0, error


def check(line):
    status, error = typed(line)
    assert status in (0, 1, 2), (line, error)
    assert "Traceback" not in error
    messages = [text for text in error.splitlines() if text.startswith("uda: ")]
    assert len(messages) == (status == 1), (line, error)
    assert status != 2 or "rror" in error or "Usage" in error, (line, error)


@fuzz("command lines", data=st.data())
def test_command_lines(place, data):
    check(data.draw(command_lines(place)))


@fuzz("training", method=st.sampled_from(["source-only", "adaptsegnet", "adaptsegnet"]), texts=st.lists(likely, max_size=2))
def test_training_with_any_settings(place, method, texts):
    values = usual(place)
    words = ["train", method, "--source", values["source"][0], "--target", values["target"][0], "--out", "out", "--quiet"]
    game = GAME if method == "adaptsegnet" else ()
    settings = [word for text in (*TINY, *game, *texts, *SHORT) for word in ("--set", text)]
    check([*words, "--device", "cpu", *settings])
