"""Record what every method computes on every pair of domains, and compare it later: for changes that must keep all numbers.

    python -m benchmarks.same_numbers record FOLDER [--camvid PATH] [--only WORDS]
    python -m benchmarks.same_numbers check FOLDER

`record` runs each case through the command line (few steps, CPU, one thread) and writes FOLDER/same_numbers.json: the losses
and the log of its steps, and hashes of the weights, of the prototypes and of the pseudo-label files. `check` runs the cases
of that file again with the code as it is now, prints a table, and ends with status 1 where something differs. A case with an
option that was renamed is edited here.

The hashes depend on the machine and on the versions, so the file is compared on the machine that wrote it and never committed.
Full-size pairs run with random weights, crops of at most 128x256 and 2 pictures a batch. Without --camvid its pairs are left
out, and the table says so.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from benchmarks.measuring import leaves
from course_lib.files import write_whole

# trained by one command, without label files
DOMAINS = (
    "source-only", "target-only", "bn-control", "adaptsegnet", "proca", "dacs", "classmix", "reco", "semiseg",
)  # fmt: skip
TRANSFORMERS = ("daformer", "hrda", "mic", "pipa-daformer", "pipa-hrda", "cluda-hrda", "sepico")
SMALL = ("steps=5", "log_every=1", "save_every=5", "warmup=0", "select=last", "workers=0")
FULL = (*SMALL, "batch_size=2", "source_size=256x128", "target_size=256x128", "test_size=256x128", "colours_on=loader")
CROPPED = (*FULL, "crop=128x128")  # the crop of the stages that have one, and of the others
MEASURED = {"seconds", "memory", "images_per_second", "steps_per_second", "time", "peak_memory"}  # of the log: not the method's

SCORES = ("miou", "accuracy", "iou")


class Case(NamedTuple):
    name: str
    words: tuple[str, ...]  # of the command, with {source}, {target}, {validation}, {data}
    needs: str = ""  # "camvid"


def settings(*assignments: str) -> tuple[str, ...]:
    """--set for each.

    >>> settings("steps=5", "flip=no")
    ('--set', 'steps=5', '--set', 'flip=no')
    """
    return tuple(word for assignment in assignments for word in ("--set", assignment))


def cases() -> list[Case]:
    """Every method on every pair, and the papers' stages."""
    found = []
    two = ("--source", "{source}", "--target", "{target}")
    for method in DOMAINS:
        small = ("start_steps=3", *SMALL, *(("target_labels=threshold",) if method == "proca" else ()))  # without label files
        found.append(Case(f"ministreet {method}", ("train", method, *two, *settings(*small))))
        for pair in ("gta5_cityscapes", "synthia_cityscapes"):
            random = ("network_options={{'imagenet': False}}",)
            size = CROPPED if method in ("dacs", "classmix", "reco", "semiseg") else FULL
            found.append(
                Case(f"{pair} {method}", ("train", method, "--recipe", pair, *two, *settings(*size, *random)))
            )
        for pair in ("camvid_dusk", "ministreet_camvid"):
            words = ("train", method, "--recipe", pair, *two, *settings(*small))
            found.append(Case(f"{pair} {method}", words, "camvid"))
    for method in TRANSFORMERS:
        now = {"sepico": ("terms.distribution_contrast.loss_from=0",)}.get(method, ())  # its loss within five steps
        now = ("terms.patch_contrast.first_step=0",) if method.startswith("pipa") else now
        small = ("start_steps=3", "rare_pixels=0", *SMALL, *now)
        found.append(Case(f"ministreet {method}", ("train", method, *two, *settings(*small))))
        for pair in ("gta5_cityscapes", "synthia_cityscapes"):
            b0 = ("network_options={{'imagenet': None, 'size': 'b0'}}", "rare_pixels=0", *now)
            found.append(Case(f"{pair} {method}", ("train", method, "--recipe", pair, *two, *settings(*CROPPED, *b0))))
    for paper in ("adaptsegnet", "proca", "bida", "segsdf"):
        words = ("run", paper, *two, "--validation", "{validation}")
        staged = ("start_steps=3",) if paper == "adaptsegnet" else ()
        found.append(Case(f"ministreet stages of {paper}", (*words, *settings(*SMALL, *staged))))
        for pair in ("gta5_cityscapes", "synthia_cityscapes"):
            random = ("network_options={{'imagenet': False}}",)
            size = FULL if paper == "adaptsegnet" else CROPPED  # others crop, to more than fits into memory
            found.append(Case(f"{pair} stages of {paper}", (*words, "--recipe", pair, *settings(*size, *random))))
    one = ("--target", "{target}", "--labels", "3")
    for method in ("supervised", "classmix"):
        for pair in ("ministreet_few_labels", "camvid_few_labels"):
            words = ("train", method, "--recipe", pair, *one, *settings("start_steps=3", *SMALL))
            found.append(Case(f"{pair} {method}", words, "camvid" * (pair == "camvid_few_labels")))
        sizes = settings(*CROPPED, "network_options={{'imagenet': False}}")
        words = ("train", method, "--recipe", "cityscapes_few_labels", *one, *sizes)
        found.append(Case(f"cityscapes_few_labels {method}", words))
    for paper in ("gist", "rist"):
        words = ("run", paper, "--recipe", "ministreet_few_labels", *one, "--validation", "{validation}")
        found.append(Case(f"ministreet_few_labels stages of {paper}", (*words, *settings("start_steps=3", *SMALL, "rounds=1"))))
    found.append(Case("ministreet_crops simclr", ("train", "simclr", "--data", "{data}", *settings(*SMALL))))
    return found


def prepare_pairs(folder: Path, camvid: Path | None) -> dict[str, dict[str, str]]:
    """Small sets of MiniStreet under `folder`, and the texts that a command takes for each pair."""
    from course_lib.data import ministreet

    for layout in ("gta5", "synthia"):
        ministreet.make(layout, folder / layout, count=6, seed=1)
    ministreet.make("cityscapes", folder / "cityscapes", count=6, seed=2)
    ministreet.make("cityscapes", folder / "cityscapes", count=4, seed=3, split="val")
    camera = {"target": f"cityscapes:{folder / 'cityscapes'}", "validation": f"cityscapes:{folder / 'cityscapes'}@val"}
    game = {"source": f"gta5:{folder / 'gta5'}", **camera, "data": f"folder:{folder / 'gta5' / 'images'}"}
    pairs = {"ministreet": game, "ministreet_crops": game, "gta5_cityscapes": game}
    pairs |= dict.fromkeys(("ministreet_few_labels", "cityscapes_few_labels"), camera)
    pairs["synthia_cityscapes"] = {"source": f"synthia:{folder / 'synthia'}", **camera}
    if camvid is not None:
        day, dusk = (f"camvid:{camvid / look}" for look in ("day", "dusk"))
        pairs["camvid_dusk"] = {"source": day, "target": dusk, "validation": dusk}
        pairs["camvid_few_labels"] = {"target": f"{day}@all", "validation": day}
        pairs["ministreet_camvid"] = {"source": game["source"], "target": day, "validation": day}
    return pairs


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def hash_of(content: Any) -> str:
    """Of the values of all tensors in `content`, whatever their names and order."""
    each = [t.contiguous() for _, t in leaves(content) if isinstance(t, torch.Tensor) and t.numel()]
    hashes = [sha(f"{t.dtype} {tuple(t.shape)}".encode() + t.view(-1).view(torch.uint8).numpy().tobytes()) for t in each]
    return sha("".join(sorted(hashes)).encode())


def look_at(out: Path) -> dict[str, Any]:
    """What a command left in `out`: by file, the log without times, hashes of weights, prepared state and label files."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.name == "log.jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found[name] = [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]
        elif path.suffix == ".pt" and path.name in ("last.pt", "best.pt", "prepared.pt"):
            content = torch.load(path, map_location="cpu", weights_only=True)
            kept = {key: content[key] for key in ("model", "method", "network", "segmenter") if key in content} or content
            found[name] = hash_of(kept)
        elif path.name == "scores.json":
            scores = json.loads(path.read_text(encoding="utf-8"))
            parts = [part for part in ("single", "multiscale") if part in scores]
            found[name] = {part: {key: scores[part][key] for key in SCORES} for part in parts}
            found[name] |= {"label kinds": scores.get("label_kinds")}
    labels = [path for path in sorted(out.rglob("*.png")) if path.is_file()]
    if labels:
        found["label files"] = [len(labels), sha(b"".join(path.read_bytes() for path in labels))]
    return found


def run_case(case: Case, pair: dict[str, str], folder: Path) -> dict[str, Any]:
    """Run the command in a process of its own, with one thread."""
    out = folder / case.name.replace(" ", "_")
    words = [word.format(**pair) for word in case.words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COURSE_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "course_lib", *words, "--out", str(out), "--device", "cpu", "--quiet"]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-3:]}
    return look_at(out)


def run_all(camvid: Path | None, only: str | None, jobs: int, recorded: Iterable[str] | None = None) -> dict[str, Any]:
    """All cases, or those that were `recorded`, by name; where data are missing, the reason in place of the numbers."""
    with tempfile.TemporaryDirectory() as place:
        pairs = prepare_pairs(Path(place), camvid)
        chosen = [case for case in cases() if recorded is None or case.name in set(recorded)]
        chosen = [case for case in chosen if only is None or all(word in case.name.split() for word in only.split())]

        def run(case: Case) -> dict[str, Any]:
            pair = pairs.get(case.name.split()[0])
            return {"left out": "without --camvid"} if pair is None else run_case(case, pair, Path(place))

        with ThreadPoolExecutor(jobs) as pool:
            results = list(tqdm(pool.map(run, chosen), total=len(chosen), unit="case"))
    return {case.name: result for case, result in zip(chosen, results, strict=True)}


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The files of a case that differ, by name; "missing" and "new" where only one of both has it.

    >>> differences({"last.pt": "a", "log.jsonl": 1}, {"last.pt": "b", "report.md": 2})
    ['last.pt differs', 'log.jsonl is missing', 'report.md is new']
    """
    found = []
    for name in sorted(before.keys() | now.keys()):
        if name not in now:
            found.append(f"{name} is missing")
        elif name not in before:
            found.append(f"{name} is new")
        elif before[name] != now[name]:
            found.append(f"{name} differs")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "check"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--camvid", type=Path, help="a folder with day/ and dusk/; check takes that of record")
    parser.add_argument("--only", help="words that a case's name has, e.g. 'ministreet proca'")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    path = chosen.folder / "same_numbers.json"
    if chosen.action == "record":
        camvid = chosen.camvid and chosen.camvid.resolve()
        results = run_all(camvid, chosen.only, chosen.jobs)
        chosen.folder.mkdir(parents=True, exist_ok=True)
        about = {"torch": torch.__version__, "camvid": camvid and str(camvid)}
        write_whole(path, (json.dumps({"about": about, "cases": results}, indent=1) + "\n").encode())
        for name, result in results.items():
            print(f"{name}: {result.get('failed') or result.get('left out') or f'{len(result)} results'}")
        return int(any("failed" in result for result in results.values()))
    content = json.loads(path.read_text(encoding="utf-8"))
    before = content["cases"]
    results = run_all(content["about"]["camvid"] and Path(content["about"]["camvid"]), chosen.only, chosen.jobs, before)
    print("| case | compared | result |\n|---|---|---|")
    bad = 0
    for name, result in results.items():
        different = differences(before.get(name, {}), result) + (["failed"] if "failed" in result else [])
        bad += bool(different)
        print(f"| {name} | {len(result)} | {'; '.join(different) or 'the same'} |")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
