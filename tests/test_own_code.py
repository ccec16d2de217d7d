"""A user's method, network and term in files of their own: every command, a kill, two processes; what a checkpoint may not."""

import json
import os
import pickle
import signal
import sys
from pathlib import Path

import pytest
import torch

from course_lib import cli, outside
from course_lib.data import ministreet
from course_lib.engine import load_checkpoint, pool
from course_lib.engine.checkpoint import CheckpointError, save_checkpoint
from course_lib.experiments.state import load_network
from course_lib.networks import build, load_builder
from tests.bounds import bound, close, roundings
from tests.processes import uda
from tests.test_structure import SMALL

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")

# The file `kill_at` in the working folder ends the process after that step, with no time to say anything.
METHOD = '''
import os, signal
from dataclasses import dataclass
from pathlib import Path

import torch

from course_lib.losses import entropy
from course_lib.methods import Method


@dataclass(frozen=True)
class Settings:
    lambda_sure: float = 0.1


class Sure(Method):
    """Sure predictions on the target."""

    Settings = Settings
    offers = (("source", "target"),)

    def __init__(self, segmenter, *rest, **others):
        super().__init__(segmenter, *rest, **others)
        self.weights["entropy"] = self.settings.lambda_sure
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def losses(self, source, target):
        P_s, P_t = self.segmenter(source.image), self.segmenter(target.image)
        batches = {"source": source, "target": target}
        yield (self.supervised(P_s, source.label) | {"entropy": entropy(P_t.logits)}
               | self.terms(batches, source=P_s, target=P_t))

    def after_step(self, step):
        self.seen += 1
        at = Path("kill_at")
        if at.exists() and step == int(at.read_text(encoding="utf-8")):
            os.kill(os.getpid(), signal.SIGKILL)
'''
PAPER = '''

from course_lib.recipes import Paper, Row


def rows(source, scale, start, same):
    return Row("source-only", "source-only", same), Row("half as sure", "sure", (*same, "lambda_sure=0.05"))


PAPER = Paper(name="sure", reference="me", summary="sure", stages={"adapt": "sure"}, small={}, rows=rows)
'''
NETWORK = '''
from torch import nn


def tiny(num_classes, width=8):
    """Two convolutions and logits at the image's size."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(width, num_classes, 1),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    )
'''
TERM = '''
import torch
from torch import nn

from course_lib.methods.terms import Term


class Near(Term):
    """Distance of projected target features from a point."""

    reads = ("target",)

    def __init__(self, segmenter, settings=None):
        super().__init__(segmenter, settings)
        self.projector = nn.Conv2d(segmenter.feature_dim, 4, 1)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, P, step):
        return {"distance": (self.projector(P["target"].features) - self.mean.view(1, -1, 1, 1)).square().mean()}

    def after_step(self, step):
        self.mean += 0.1
'''
SIZES = tuple(setting for setting in SMALL if not setting.startswith("network"))
OWN = (*SIZES, "network=my_nets.py:tiny", "network_options={'width': 6}", "select=last")
NAMED = ("--set", "network=my_nets.py:tiny")


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[str]:
    root, options = tmp_path_factory.mktemp("own"), {"size": (32, 64), "workers": 1, "progress": False}
    ministreet.make("gta5", root / "gta5", 4, 1, **options)
    ministreet.make("cityscapes", root / "cityscapes", 4, 2, **options)
    ministreet.make("cityscapes", root / "cityscapes", 2, 3, split="val", **options)
    return ["--source", f"gta5:{root / 'gta5'}", "--target", f"cityscapes:{root / 'cityscapes'}"]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The working folder, with a user's files."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("my_method.py", METHOD), ("my_nets.py", NETWORK), ("my_terms.py", TERM)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def words_of(*command: str, settings: tuple[str, ...] | None = OWN) -> list[str]:
    if settings is None:
        return [*command]
    return [*command, *(word for setting in settings for word in ("--set", setting)), "--device", "cpu", "--quiet"]


def typed(place: Path, *command: str, count: int = 1, settings: tuple[str, ...] | None = ()) -> tuple[list[int | None], str]:
    return uda(words_of(*command, settings=settings), place / "said.txt", place / "cache", count)


def fine(place: Path, *command: str, count: int = 1, settings: tuple[str, ...] | None = ()) -> str:
    (place / "said.txt").unlink(missing_ok=True)
    codes, said = typed(place, *command, count=count, settings=settings)
    assert codes == [0] * count, said
    return said


def test_from_a_folder_with_three_files_to_a_table(place, pair):
    """Train with all three, evaluate, predict, run, and compare in two processes."""
    target, own = pair[3], (*OWN, "terms=+my_terms.py:Near", "Near.weight=0.5", "lambda_sure=0.2", "steps=3")
    said = fine(place, "train", "my_method.py:Sure", *pair, "--out", "one", settings=own)
    assert f"--set network={place / 'my_nets.py'}:tiny" in said  # how to score it
    losses = json.loads((place / "one" / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])["losses"]
    assert {"segmentation", "entropy", "Near.distance"} <= losses.keys()
    content = load_checkpoint(place / "one" / "best.pt")
    assert content["recipe"]["method"] == "my_method.py:Sure" and content["recipe"]["settings"] == {"lambda_sure": 0.2}
    assert content["code"].keys() == {"my_method.py:Sure", "my_nets.py:tiny", "my_terms.py:Near"}
    assert "terms.Near.mean" in content["method"] and "network.0.weight" in content["segmenter"]

    codes, said = typed(place, "evaluate", "one/best.pt", "--data", target)
    assert codes == [1] and "network my_nets.py:tiny is code from outside this library, which no checkpoint" in said
    assert "mIoU" in fine(place, "evaluate", "one/best.pt", "--data", target, *NAMED)
    picture = next(Path(target.partition(":")[2]).rglob("*leftImg8bit.png"))
    codes, said = uda(["predict", "one/best.pt", str(picture), "--out", "maps", *NAMED, "--device", "cpu"],
                      place / "said.txt", place / "cache")  # fmt: skip
    assert codes == [0] and len(list((place / "maps").iterdir())) == 2, said
    fine(place, "label", "one/best.pt", "--target", target, "--out", "labels", *NAMED)

    shown = fine(place, "recipe", "show", "ministreet", "my_method.py:Sure", settings=None)
    edited = shown.replace("lambda_sure = 0.1 ", "lambda_sure = 0.3 ") + '[rows.own]\nset = ["lambda_sure=0.4"]\n'
    edited += '[rows.near]\nset = ["terms=+my_terms.py:Near"]\n'
    (place / "mine.toml").write_text(edited, encoding="utf-8")
    own = (*OWN, "steps=2")
    with_term = (*own, "terms=+my_terms.py:Near")
    fine(place, "run", "my_method.py:Sure", "--recipe", "mine.toml", *pair, "--out", "run", settings=with_term)
    assert "my_method.py:Sure" in (place / "run" / "report.md").read_text(encoding="utf-8")
    trained = load_checkpoint(place / "run" / "1_my_method_py_Sure" / "best.pt")["recipe"]
    assert trained["settings"] == {"lambda_sure": 0.3} and trained["loop"]["steps"] == 2
    again = ["compare", "my_method.py:Sure", "--recipe", "mine.toml", *pair, "--out", "compared", "--seeds", "0"]
    fine(place, *again, settings=own)
    rows = json.loads((place / "compared" / "results.json").read_text(encoding="utf-8"))["rows"]
    assert rows["my_method.py:Sure"]["control"] == rows["own"]["control"] == "source-only, 2 x compute"
    assert rows["near"]["passes"] == rows["own"]["passes"]  # the term asks for no pass of its own
    assert rows["source-only"]["steps"] == 2 and rows["own"]["overrides"] == ["lambda_sure=0.4"]
    # a term of all rows goes to those that have what it reads
    several = [*again[:-3], "one_term", "--seeds", "0"]
    fine(place, *several, settings=with_term)
    results = json.loads((place / "one_term" / "results.json").read_text(encoding="utf-8"))
    having = [name for name, constants in results["constants"].items() if constants["terms"]]
    assert having == ["my_method.py:Sure", "own", "near", "target-only (oracle)"]
    assert "Near reads the predictions of target. Rows without it: source-only, source-only, 1.33 x" in results["notes"][0]
    # a row whose code was edited is trained again
    scores = place / "compared" / "my_method_py_Sure" / "seed0" / "scores.json"
    before = scores.stat().st_mtime_ns
    (place / "my_method.py").write_text(METHOD + PAPER, encoding="utf-8")
    fine(place, *again, settings=own)
    assert scores.stat().st_mtime_ns > before
    fine(place, "ablate", "my_method.py:Sure", *pair, "--seeds", "0", "--out", "ablated", "--rows", "source-only; half as sure",
         settings=own)  # fmt: skip
    rows = json.loads((place / "ablated" / "results.json").read_text(encoding="utf-8"))["rows"]
    assert list(rows) == ["source-only", "half as sure"] and "lambda_sure=0.05" in rows["half as sure"]["overrides"]
    table = (place / "ablated" / "results.csv").read_text(encoding="utf-8")
    assert "half as sure,0,road," in table and "half as sure,0,mIoU," in table


WITHOUT = """from course_lib.methods import Method


class Empty(Method):
    pass
"""
WRONG = """from course_lib.methods import Method


class Wrong(Method):
    def losses(self, source, target):
        yield {"segmentation": source.image.view(7).sum()}
"""


RETURNS = WRONG.replace("yield", "return").replace(".view(7)", "")
VECTOR = WRONG.replace(".view(7).sum()", ".mean((1, 2, 3))")


@pytest.mark.parametrize("text, words, line", [
    (RETURNS, "Wrong yields str, wanted a dictionary of losses for each backward pass. Where `losses` returns one, write", ""),
    (VECTOR, "Wrong yields the loss 'segmentation' of shape (4,), wanted one number: take its mean.", ""),
    (WITHOUT, "Empty has no `losses`. Write it: a generator that takes a batch of each stream by name and yields one ", ""),
    (WRONG, "shape '[7]' is invalid", " (mistaken.py, line 6)"),
])  # fmt: skip
def test_an_error_in_own_code_says_where_and_what_to_write(text, words, line, place, pair):
    (place / "mistaken.py").write_text(text, encoding="utf-8")
    settings = (*SIZES, "network=small", "start_steps=0", "batch_size=4")
    with pytest.raises((ValueError, RuntimeError)) as raised:
        cli.app(words_of("train", "mistaken.py", *pair, "--out", "run", settings=settings), standalone_mode=False)
    assert words in str(raised.value) and outside.place(raised.value) == line


def test_an_error_of_another_process_says_where_in_own_code(place):
    """Its traceback stays there: the pool sends the place along with the error."""
    (place / "mistaken.py").write_text("def failing(num_classes):\n    return 1 / 0\n", encoding="utf-8")
    failing = outside.load("mistaken.py:failing", "network", None).object
    with pytest.raises(ZeroDivisionError) as raised:
        pool._placed(failing, 19)
    sent = pickle.loads(pickle.dumps(raised.value))
    assert sent.__traceback__ is None and outside.place(sent) == " (mistaken.py, line 2)"


def test_a_run_that_was_killed_is_the_run_that_was_not(place, pair):
    """Bit for bit, with constants from a recipe file; and a file of code that was edited meanwhile is an error."""
    recipe = fine(place, "recipe", "show", "ministreet", "my_method.py:Sure", settings=None)
    (place / "mine.toml").write_text(recipe, encoding="utf-8")
    train = ["train", "my_method.py:Sure", "--recipe", "mine.toml", *pair]
    own = (*OWN, "terms=+my_terms.py:Near", "steps=4", "save_every=2")
    (place / "kill_at").write_text("2", encoding="utf-8")  # step 3 of 4, a checkpoint is at step 2
    codes, _ = typed(place, *train, "--out", "cut", settings=own)
    assert codes == [-signal.SIGKILL] and [p.name for p in (place / "cut").glob("step_*.pt")] == ["step_0000002.pt"]
    (place / "kill_at").unlink()
    (place / "my_nets.py").write_text(NETWORK + "\n", encoding="utf-8")
    codes, said = typed(place, *train, "--out", "cut", "--resume", settings=own)
    assert codes == [1] and "another version of my_nets.py:tiny: the file has changed" in said, said
    (place / "my_nets.py").write_text(NETWORK, encoding="utf-8")
    fine(place, *train, "--out", "cut", "--resume", settings=own)
    fine(place, *train, "--out", "whole", settings=own)
    a, b = (load_checkpoint(place / name / "last.pt") for name in ("cut", "whole"))
    assert a["step"] == b["step"] == 4 and int(a["method"]["seen"]) == 4
    for part in ("segmenter", "method"):
        assert a[part].keys() == b[part].keys() and all(torch.equal(a[part][name], b[part][name]) for name in a[part]), part
    (place / "my_nets.py").write_text(NETWORK + "\n", encoding="utf-8")
    said = fine(place, "evaluate", "whole/best.pt", "--data", pair[3], *NAMED)
    assert "trained with another version of my_nets.py:tiny: the file has changed" in said


def test_two_processes_are_one(place, pair):
    """Named as modules. The losses of the first step are those of the whole batch; after it only the rounding differs.

    A loss is a mean over the pixels of what passes through the network: 4,096 pixels of two pictures, 19 classes. The second
    loss comes after one step, whose gradient passes through the same sums and, backwards, through the same layers.
    """
    network = build(load_builder("my_nets:tiny"), 19, seed=0, width=6)
    passed = 3 * (roundings(network) + 2 * 64 * 32 + 19)
    own = (*OWN, "network=my_nets:tiny", "terms=+my_terms:Near", "steps=2")
    for count in (1, 2):
        fine(place, "train", "my_method:Sure", *pair, "--out", str(count), "--deterministic", count=count, settings=own)
    logs = [(place / str(count) / "log.jsonl").read_text(encoding="utf-8").splitlines() for count in (1, 2)]
    for one, two in zip(*logs, strict=True):
        for name, value in json.loads(one)["losses"].items():
            close(json.loads(two)["losses"][name], value, bound(passed, torch.float32, value))


@pytest.mark.parametrize("name", ["timm:resnet10t", "torchvision:resnet18"])
def test_a_network_of_a_library_need_not_be_named_again(name, tmp_path):
    from course_lib.recipes import recipe

    plain = recipe("ministreet", "source-only").override(*SIZES, f"network={name}", "network_options={'head_dim': 8}")
    network = build(name, 19, seed=0, pretrained=False, head_dim=8)
    save_checkpoint(tmp_path / "best.pt", {"recipe": plain.to_dict(), "step": 1, "segmenter": network.state_dict()})
    found = load_network(tmp_path / "best.pt")[0]
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in network.state_dict().items())


def evil(place: Path, **change) -> Path:
    """A checkpoint that names code which would leave a mark."""
    place.joinpath("evil.py").write_text(
        "from pathlib import Path\nPath('marker').touch()\n" + METHOD + NETWORK + TERM, encoding="utf-8"
    )
    from course_lib.recipes import recipe

    plain = recipe("ministreet", "source-only").override(*SMALL)
    path = place / "run" / "best.pt"
    network = build("small", 19, width=8)
    content = {"recipe": plain.to_dict() | change, "step": 1, "segmenter": network.state_dict()}
    save_checkpoint(path, content | {"code": dict.fromkeys(map(str, change.values()), "0" * 64)})
    (place / "run" / "recipe.json").write_text(json.dumps(content["recipe"]), encoding="utf-8")
    os.link(path, place / "run" / "last.pt")
    return path


def test_a_checkpoint_of_an_entry_point_says_how_to_name_it(place, monkeypatch):
    """Nothing is imported before the name is given."""
    about = place / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[course_lib.networks]\nmynet = mine_nets:tiny\n", encoding="utf-8")
    (place / "mine_nets.py").write_text("open('marker', 'w').close()\n" + NETWORK, encoding="utf-8")
    monkeypatch.syspath_prepend(str(place))
    path = evil(place, network="mynet", network_options={})
    with pytest.raises(CheckpointError, match=r"The network mynet is code from outside .* name it: --set network=mynet; in Py"):
        load_network(path)
    assert not (place / "marker").exists()
    with pytest.raises(CheckpointError, match="cannot be built from it"):  # named, so imported: the weights are others
        load_network(path, settings=("network=mynet",))
    assert (place / "marker").exists()


@pytest.mark.parametrize("change", [
    {"network": "evil.py:tiny", "network_options": {}}, {"network": "evil:tiny", "network_options": {}},
    {"method": "evil.py:Sure", "settings": {"lambda_sure": 0.1}}, {"terms": {"evil.py:Near": {"weight": 1.0, "first_step": 0}}},
], ids=["network", "module", "method", "term"])  # fmt: skip
def test_a_checkpoint_never_imports_code_by_itself(place, pair, change):
    path, target = evil(place, **change), pair[3]
    evaluated = typed(place, "evaluate", str(path), "--data", target)
    for command in (
        ["label", str(path), "--target", target, "--out", "labels"],
        ["train", "source-only", *pair, "--out", "new", "--start", str(path), *words_of(settings=(*SMALL, "steps=1"))[:-3]],
        ["train", "source-only", *pair, "--out", "run", "--resume", *words_of(settings=(*SMALL, "steps=1"))[:-3]],
    ):
        typed(place, *command)
    named = "network" in change
    assert evaluated[0] == [1 if named else 0] and (not named or "no checkpoint and no recipe may import" in evaluated[1])
    assert not (place / "marker").exists()
    codes, said = typed(place, "evaluate", str(path), "--data", target, *NAMED)
    assert codes == [1] and "Name the same" in said  # another network than the checkpoint's
    assert not (place / "marker").exists()


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {f"module.{name}": value for name, value in state.items()},
    lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    lambda state: {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
], ids=["bare", "module", "compiled", "both", "state_dict", "model", "half"])  # fmt: skip
def test_the_weights_of_a_network_in_somebody_elses_file(wrap, tmp_path, request):
    network = build("small", 16, seed=3, width=8)
    torch.save(wrap(network.state_dict()), tmp_path / "weights.pth")
    found, recipe = load_network(tmp_path / "weights.pth", settings=("network=small", "network_options={'width': 8}",
                                                                    "space=synthia16", "test_size=64x32"))  # fmt: skip
    half = "half" in request.node.name
    for name, value in network.state_dict().items():
        assert found.state_dict()[name].dtype == value.dtype
        assert torch.equal(found.state_dict()[name], value.half().float() if half and value.is_floating_point() else value)
    assert recipe.space == "synthia16" and recipe.test_size == (32, 64)


def test_the_weights_of_a_users_network_have_its_own_names(place):
    net = build(load_builder("my_nets.py:tiny"), 19, seed=0, width=6).network
    torch.save(net.state_dict(), "weights.pth")
    found = load_network("weights.pth", settings=("network=my_nets.py:tiny", "network_options={'width': 6}"))[0]
    assert all(torch.equal(value, found.network.state_dict()[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("settings, words", [
    (("network=small", "network_options={'width': 16}"), "weights of another network: .* of another shape .* Give its --set"),
    (("network=deeplab_v2",), "weights of another network: .* missing: .* left over"),
    ((), r"has no 'segmenter'.* Nor is it a released file: .* say of which: --set network=NAME \(in Python: settings\)\."),
    (("network=small", "lr=1"), None),
], ids=["width", "kind", "not said", "more"])  # fmt: skip
def test_weights_of_another_network(settings, words, tmp_path):
    torch.save(build("small", 19, seed=3).state_dict(), tmp_path / "weights.pth")
    if words is None:
        assert load_network(tmp_path / "weights.pth", settings=settings)[0].feature_dim == 64
        return
    with pytest.raises(ValueError, match=words):
        load_network(tmp_path / "weights.pth", settings=settings)


def test_a_start_in_somebody_elses_file(place, pair):
    """--start takes it where the recipe says the network."""
    torch.save({f"module.{name}": value for name, value in build("small", 19, seed=3, width=8).state_dict().items()}, "w.pth")
    fine(place, "train", "source-only", *pair, "--out", "out", "--start", "w.pth", settings=(*SMALL, "steps=1", "select=last"))
    codes, said = typed(place, "train", "source-only", *pair, "--out", "other", "--start", "w.pth",
                        settings=(*SMALL, "network_options={'width': 16}", "steps=1"))  # fmt: skip
    assert codes == [1] and "Nor is it the weights of small: w.pth has the weights of another network" in said
