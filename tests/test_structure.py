"""The structure of the package: a paper is one file of methods/ and one of recipes/papers/, and nothing else names it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import course_lib
from course_lib.data import ministreet
from course_lib.experiments.parts import Pair
from course_lib.experiments.train import train_recipe
from course_lib.methods import METHODS, ProCA
from course_lib.recipes import recipe

PACKAGE = Path(course_lib.__file__).parent
SMALL = ("network=small", "network_options={'width': 8}", "source_size=64x32", "target_size=64x32", "test_size=64x32",
         "batch_size=2", "start_steps=0", "warmup=0", "log_every=1")  # fmt: skip

MINE = '''
"""A method and a term of somebody else, in one file each."""

from dataclasses import dataclass

import torch
from torch import nn

from course_lib.losses import entropy
from course_lib.methods.base import Method


@dataclass(frozen=True)
class MineSettings:
    lambda_sure: float = 0.1


class Mine(Method):
    """Sure predictions on the target."""

    name = "mine"
    Settings = MineSettings
    offers = (("source", "target"),)

    def __init__(self, segmenter, *rest, **others):
        super().__init__(segmenter, *rest, **others)
        self.weights["entropy"] = self.settings.lambda_sure
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def prepare(self, looks):
        self.seen += sum(len(batch.name) for batch in looks("source"))

    def after_step(self, step):
        self.seen += 1

    def losses(self, source, target):
        P_s, P_t = self.segmenter(source.image), self.segmenter(target.image)
        batches = {"source": source, "target": target}
        yield (self.supervised(P_s, source.label) | {"entropy": entropy(P_t.logits)}
               | self.terms(batches, source=P_s, target=P_t))
'''
TERM = '''
"""A term with a projector and a memory."""

from dataclasses import dataclass

import torch
from torch import nn

from course_lib.methods.terms.base import Term, TermSettings


@dataclass(frozen=True)
class MemorySettings(TermSettings):
    weight: float = 0.5
    share: float = 0.9


class Memory(Term):
    """Distance of projected target features from their moving average."""

    name = "memory"
    Settings = MemorySettings
    reads = ("target",)

    def __init__(self, segmenter, settings=None):
        super().__init__(segmenter, settings)
        self.projector = nn.Conv2d(segmenter.feature_dim, 4, 1)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("new", torch.zeros(4))

    def forward(self, P, step):
        z = self.projector(P["target"].features).mean(dim=(0, 2, 3))
        self.new.copy_(z.detach())
        return {"distance": (z - self.mean).square().sum()}

    def after_step(self, step):
        self.mean.lerp_(self.new, 1 - self.settings.share)
'''
# every command in one process, which imports the copied package once
COMMANDS = '''
import os, sys, pathlib
os.cpu_count = lambda: 1  # the comparison in this process, too
sys.path.insert(0, sys.argv[1])
import course_lib
assert pathlib.Path(course_lib.__file__).parts[:-2] == pathlib.Path(sys.argv[1]).resolve().parts, course_lib.__file__
from course_lib import cli
for line in open(sys.argv[2], encoding="utf-8"):
    sys.argv = ["uda", *eval(line)]
    print("$", *sys.argv[1:3], flush=True)
    try:
        cli.app()
    except SystemExit as ended:
        if ended.code:
            raise
'''


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> dict[str, str]:
    root, options = tmp_path_factory.mktemp("structure"), {"size": (32, 64), "workers": 1, "progress": False}
    ministreet.make("gta5", root / "gta5", 4, 1, **options)
    ministreet.make("cityscapes", root / "cityscapes", 4, 2, **options)
    ministreet.make("cityscapes", root / "cityscapes", 2, 3, split="val", **options)
    return {"source": f"gta5:{root / 'gta5'}", "target": f"cityscapes:{root / 'cityscapes'}"}


def copy_of_package(place: Path) -> Path:
    shutil.copytree(PACKAGE, place / "course_lib", ignore=shutil.ignore_patterns("__pycache__"))
    return place


def run(place: Path, script: str, *words: object, check: bool = True) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COURSE_CACHE": str(place / "cache")}
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], cwd=place, env=environment, capture_output=True,
                          encoding="utf-8", timeout=1800)  # fmt: skip
    assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def words(*command: str, settings: tuple[str, ...] = SMALL, **options: object) -> list[str]:
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [*command, *given, *(word for setting in settings for word in ("--set", setting)), "--device", "cpu"]


def test_a_paper_is_removed_with_its_files(tmp_path, pair):
    """Everything else is imported, lists the methods that are left and trains one of them."""
    place = copy_of_package(tmp_path)
    for path in ("methods/bida.py", "recipes/papers/bida.py"):
        (place / "course_lib" / path).unlink()
    script = f"""
import importlib, pathlib, sys
sys.path.insert(0, {str(place)!r})
import course_lib
root = pathlib.Path(course_lib.__file__).parent
assert root.parent == pathlib.Path({str(place)!r}).resolve(), root
for path in sorted(root.rglob("*.py")):
    module = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
    if path.stem not in ("__main__", "execute") and "classroom" not in module:
        importlib.import_module(module)
from course_lib.methods import METHODS
from course_lib.recipes import PAPERS, recipe
from course_lib.experiments.parts import Pair
from course_lib.experiments.rows import ablation_rows, standard_rows
from course_lib.experiments.show import listing
from course_lib.experiments.train import train_recipe
print(*METHODS, *PAPERS)
assert "bida" not in listing() and standard_rows("ministreet", ("proca",)) and ablation_rows("proca", "ministreet")
chosen = recipe("ministreet", "proca").override(*{SMALL!r}, "steps=1", "target_labels=threshold")
print(train_recipe(chosen, Pair({pair["source"]!r}, {pair["target"]!r}), "out", quiet=True))
"""
    told = run(place, script).stdout.splitlines()
    assert set(told[-2].split()) == set(METHODS) - {"bida"} | {"adaptsegnet", "proca", "simclr"}
    assert (place / "out" / "best.pt").is_file()


def test_a_method_and_a_term_are_added_with_their_files(tmp_path, pair):
    """One file each: train, evaluate, predict, run and compare, as with the methods of the course (killed: below)."""
    place = copy_of_package(tmp_path)
    (place / "course_lib" / "methods" / "mine.py").write_text(MINE, encoding="utf-8")
    (place / "course_lib" / "methods" / "terms" / "memory.py").write_text(TERM, encoding="utf-8")
    own = (*SMALL, "terms=+memory", "memory.share=0.8", "memory.first_step=2", "lambda_sure=0.2", "save_every=3", "select=last")
    picture = next(Path(pair["target"].partition(":")[2]).rglob("*leftImg8bit.png"))

    def commands(*each: list[str]) -> tuple[Path, Path]:
        path = place / "commands.txt"
        path.write_text("".join(f"{command!r}\n" for command in each), encoding="utf-8")
        return place, path

    told = run(
        place, COMMANDS,
        *commands(
            words("train", "mine", settings=(*own, "steps=4"), **pair, out="whole"),
            words("evaluate", "whole/best.pt", settings=(), data=pair["target"], split="val"),
            words("predict", "whole/best.pt", str(picture), settings=(), out="maps"),
            words("run", "mine", settings=(*own, "steps=2"), **pair, out="run"),
            words("compare", "mine", settings=(*SMALL, "steps=2", "select=last"), **pair, out="compared", seeds="0"),
            ["recipe", "show", "ministreet", "mine"],
        ),
    ).stdout  # fmt: skip
    assert "lambda_sure = 0.1" in told and "mIoU" in told
    rows = json.loads((place / "compared" / "results.json").read_text(encoding="utf-8"))["rows"]
    assert rows["mine"]["method"] == "mine" and rows["mine"]["control"] == "source-only, 2 x compute"
    assert rows["mine"]["passes"] == rows["source-only, 2 x compute"]["passes"]
    assert len(list((place / "maps").iterdir())) == 2 and (place / "run" / "report.md").is_file()
    log = [json.loads(line) for line in (place / "whole" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [("memory.distance" in record["losses"]) for record in log[:4]] == [False, False, True, True]


def test_a_run_with_a_term_that_was_killed_is_the_run_that_was_not(tmp_path, pair):
    """The state of the term, its projector in the optimiser too, is in the checkpoint: bit for bit."""
    place = copy_of_package(tmp_path)
    (place / "course_lib" / "methods" / "mine.py").write_text(MINE, encoding="utf-8")
    (place / "course_lib" / "methods" / "terms" / "memory.py").write_text(TERM, encoding="utf-8")
    settings = (*SMALL, "terms=memory", "select=last", "save_every=2", "steps=6")
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(place)!r})
import torch
from dataclasses import replace
from course_lib.engine import RunFolder, load_checkpoint
from course_lib.experiments.parts import Pair
from course_lib.experiments.train import train_recipe
from course_lib.recipes import recipe
chosen = recipe("ministreet", "mine").override(*{settings!r})
pair = Pair({pair["source"]!r}, {pair["target"]!r})
if sys.argv[1] == "killed":
    save = RunFolder.save
    def saved(self, step, *rest):
        save(self, step, *rest)
        if step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
    RunFolder.save = saved
    train_recipe(chosen, pair, "cut", quiet=True)
train_recipe(chosen, pair, "cut", existing="resume", quiet=True)
train_recipe(chosen, pair, "whole", quiet=True)
a, b = load_checkpoint("cut/last.pt"), load_checkpoint("whole/last.pt")
assert a["step"] == b["step"] == 6 and int(a["method"]["seen"]) == 4 + 6
assert "terms.memory.projector.weight" in a["method"] and a["method"]["terms.memory.mean"].abs().sum() > 0
for part in ("method", "segmenter"):
    assert a[part].keys() == b[part].keys() and all(torch.equal(a[part][name], b[part][name]) for name in a[part]), part
moments = [[s for s in content["optimisers"]["segmenter"]["state"].values()] for content in (a, b)]
assert len(moments[0]) == len(moments[1]) and all(torch.equal(x["exp_avg"], y["exp_avg"]) for x, y in zip(*moments))
"""
    assert run(place, script, "killed", check=False).returncode == -signal.SIGKILL
    assert max(int(path.stem.partition("_")[2]) for path in (place / "cut").glob("step_*.pt")) == 4
    run(place, script, "resumed")


def test_a_setting_passes_through_five_files(pair, tmp_path, monkeypatch):
    """From --set lambda_feat=0.3 to the method: the files on the call stacks, and those that name the key."""
    from typer.testing import CliRunner

    from course_lib.cli import app

    path, found = set(), []
    plain = ProCA.__init__
    override = type(recipe("ministreet", "proca")).override

    def files() -> set[str]:
        own = (Path(frame.filename) for frame in traceback.extract_stack())
        return {file.relative_to(PACKAGE).as_posix() for file in own if file.is_relative_to(PACKAGE)}

    def built(self, segmenter, settings=None, *rest, **others):
        if settings is not None and settings.lambda_feat == 0.3:
            path.update(files())
            found.append(settings.lambda_feat)
        plain(self, segmenter, settings, *rest, **others)

    def overridden(self, *assignments):
        if "lambda_feat=0.3" in assignments:
            path.update(files())
        return override(self, *assignments)

    monkeypatch.setattr(ProCA, "__init__", built)
    monkeypatch.setattr(type(recipe("ministreet", "proca")), "override", overridden)
    settings = (*SMALL, "steps=1", "target_labels=threshold", "lambda_feat=0.3", "select=last")
    done = CliRunner().invoke(app, words("train", "proca", settings=settings, **pair, out=str(tmp_path / "out")))
    assert done.exit_code == 0, done.output
    naming = {file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py")
              if re.search(r"\blambda_feat\b", file.read_text(encoding="utf-8"))}  # fmt: skip
    naming -= {"methods/terms/prototype_contrast.py"}  # a setting of its own, with the same name
    assert found and path | naming == {
        "cli.py", "experiments/train.py", "recipes/recipe.py", "methods/proca.py", "recipes/papers/proca.py",
    }  # fmt: skip


def test_papers_are_named_in_their_own_folders_only():
    """And in what stands for the course itself: the demo, the classroom, networks as released."""
    names = re.compile(r'"(proca|bida|adaptsegnet|simclr|self-training)"|recipe\.(proca|bida|simclr|adaptsegnet)\b')
    allowed = ("methods/", "recipes/papers/", "classroom/", "networks/", "demo.py")
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        where = file.relative_to(PACKAGE).as_posix()
        if not where.startswith(allowed):
            lines = file.read_text(encoding="utf-8").splitlines()
            found += [f"{where}: {line.strip()}" for line in lines if names.search(line)]
    assert not found


def test_a_method_that_reads_no_source_needs_none(pair, tmp_path):
    chosen = recipe("ministreet", "target-only").override(*SMALL, "steps=1", "select=last")
    assert train_recipe(chosen, Pair(None, pair["target"]), tmp_path / "out", quiet=True).is_file()
    with pytest.raises(ValueError, match="source-only reads pictures of the source; give --source"):
        train_recipe(chosen.of("source-only"), Pair(None, pair["target"]), tmp_path / "other", quiet=True)
