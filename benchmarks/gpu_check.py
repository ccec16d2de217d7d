"""Check the library on a CUDA GPU: one command, at most 8 minutes, nothing to download. Without a GPU: small sizes on the CPU.

    python -m benchmarks.gpu_check [--device auto] [--minutes 8] [--data-root FOLDER] [--out FILE.json]
                                   [--items ITEM ...] [--only ROW ...]

Needs torch, torchvision, numpy, pillow and tqdm alone. In this order:

    agreement   each method's losses of 5 steps on the device and on the CPU, in bf16, and its network's pseudo-labels
    resume      3 steps, a checkpoint, 3 more: the same bits as 6 steps, with deterministic algorithms
    speed       a step of each method's GTA5 -> Cityscapes recipe at its published size: seconds, share of the bf16 peak, memory
    terms       losses and whole steps beside plain transcriptions of the released code: values and times
    compile     a compiled network: the same losses, how much faster
    data        with --data-root, 50 steps of each method on the GTA5 and Cityscapes below it (folders as for `uda run`)

Each item runs in a process of its own with a time limit, row by row: a row that fails, a process that crashes and an item that
takes too long are written down, and the next one runs. FILE.json and FILE.md are written after each row (default:
benchmarks/results/gpu_check; runs/gpu_check for a CPU). Exit status: 1 if something failed. Methods are those of
`course_lib.recipes.METHODS` that have a step of their own: a new one is checked without a change here. `data` leaves out those
that read depth, which GTA5 does not have.
"""

import argparse
import gc
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_rows
from benchmarks.gpu_rows import CPU, Found, Place
from benchmarks.measuring import GIB, command
from course_lib.engine import choose_device
from course_lib.experiments.compare import machine
from course_lib.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
OUT = {"cuda": "benchmarks/results/gpu_check.json", "cpu": "runs/gpu_check.json"}  # below ROOT; a CPU's is no result
LAST = 8  # lines of a traceback that are kept


# ---- the items ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """A table of the report: what it measures, row by row, and its share of the time."""

    name: str
    title: str
    about: str
    share: float  # on a GPU about the seconds that it takes
    rows: tuple[str, ...]
    measure: Callable[[str, Place], Found]


ITEMS = (
    Item(
        "agreement", "The device beside the CPU",
        "Largest difference of a loss from the CPU's in fp32, in its own size or 1: at most 1e-3 without TF32, 0.1 in bf16. "
        "Networks have random weights and one block a stage, rates are a tenth of the published ones: at full rates a "
        "difference of the last bit grows 30 times in a step. Labels: pseudo-labels that the trained network writes, its heads "
        "scaled so that it is sure; a pixel may differ only where its two likeliest classes, or its confidence and a "
        "threshold, are as near as the devices' rounding (`could differ`, at most 5 %).",
        110, gpu_rows.STEPS, gpu_rows.agreement,
    ),
    Item(
        "resume", "Resumed, bit for bit",
        "3 steps, a checkpoint, 3 more beside 6 steps, on MiniStreet in GTA5's and Cityscapes' folders, with deterministic "
        "algorithms: weights, buffers, optimisers, random state and losses are the same bits.",
        90, gpu_rows.STEPS, gpu_rows.resume,
    ),
    Item(
        "speed", "A training step",
        "Medians of three rounds, without loading. fp32 is torch's default: convolutions in TF32, matrix products in full. "
        "Share of the peak: multiply-adds counted by torch, beside a large bf16 matrix product measured here. GiB: the most "
        "of all tensors. A batch that does not fit into memory is halved.",
        170, gpu_rows.STEPS, gpu_rows.speed,
    ),
    Item(
        "terms", "Losses beside plain transcriptions of the released code",
        "Values and gradients differ by at most 1e-4 of their largest element, losses of whole steps by 1e-3, without TF32.",
        40, gpu_rows.ALL_TERMS, gpu_rows.terms,
    ),
    Item(
        "compile", "A compiled network", "The losses of the first step differ by at most 1e-3.",
        70, ("bida",), gpu_rows.compiled,
    ),
)  # fmt: skip
DATA = Item(
    "data", "50 steps on the reader's own pictures", "Full size, random order, no score.",
    600, gpu_rows.ON_REAL_DATA, gpu_rows.data,
)  # fmt: skip


# ---- a worker: rows of one item in a process of its own --------------------------------------------------------------


def work(item: Item, rows: list[str], place: Place, events: Path) -> None:
    """Measure rows one after the other; `events` gets a line when one begins and one when it ends.

    A device that no longer responds (after an illegal access, for instance) ends this process; the next one gets the rows that
    are left.
    """

    def tell(**event: Any) -> None:
        with events.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    for row in rows:
        tell(row=row, event="begins")
        began = time.perf_counter()
        try:
            result = asdict(item.measure(row, place))
        except (Exception, SystemExit) as error:  # step_speed.check leaves where losses disagree
            lines = traceback.format_exception(error)
            result = {"error": f"{type(error).__name__}: {error}", "traceback": "".join(lines).splitlines()[-LAST:]}
        tell(row=row, event="ends", seconds=round(time.perf_counter() - began, 2), **result)
        gc.collect()
        if place.device.type == "cuda":
            torch.cuda.synchronize(place.device)  # raises where the device is lost
            torch.cuda.empty_cache()


# ---- the parent: starts workers, keeps time, writes ------------------------------------------------------------------

Start = Callable[[Item, list[str], Path], subprocess.Popen]  # a process that measures rows and writes events


class Report:
    """What was found so far, as JSON and Markdown; both are written whole after every row."""

    def __init__(self, out: Path, about: dict[str, Any]) -> None:
        self.out, self.began = out, time.perf_counter()
        self.content: dict[str, Any] = {**about, "seconds": 0.0, "items": []}

    def begin(self, item: Item) -> dict[str, Any]:
        """A section for an item, which `write` then finds."""
        section = {"name": item.name, "title": item.title, "about": item.about, "seconds": 0.0, "status": "running", "rows": []}
        self.content["items"].append(section)
        self.write()
        return section

    @property
    def failed(self) -> list[str]:
        """Rows that failed or are missing."""
        return [
            f"{section['name']}: {row['row']}"
            for section in self.content["items"] for row in section["rows"] if row.get("error") or row.get("wrong")
        ]  # fmt: skip

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.began:6.1f} s] {text}", flush=True)

    def write(self) -> None:
        self.content["seconds"] = round(time.perf_counter() - self.began, 1)
        self.content["failed"] = self.failed
        write_whole(self.out.with_suffix(".json"), json.dumps(self.content, indent=1) + "\n")
        write_whole(self.out.with_suffix(".md"), markdown(self.content))


def markdown(content: dict[str, Any]) -> str:
    """The report as a page."""
    machine_, cuda = content["machine"], content["device"] != "cpu"
    where = machine_["gpu"] if cuda else f"CPU ({machine_['processor']}, {machine_['cores']} cores)"
    versions = ", ".join(f"{name} {machine_[name]}" for name in ("python", "torch", "torchvision", "cuda", "cudnn", "driver")
                         if machine_.get(name))  # fmt: skip
    lines = ["# The library on a GPU" if cuda else "# The checks of the library on a GPU, run on a CPU", ""]
    lines += [f"`{content['command']}`, {content['date']}, {content['seconds']:.0f} s", "", f"**{where}**; {versions}.", ""]
    if not cuda:
        lines += ["Small pictures and networks: this shows that the script runs; times say nothing about a GPU.", ""]
    for section in content["items"]:
        lines += [f"## {section['title']}", "", f"`{section['name']}`: {section['status']}, {section['seconds']:.0f} s. "
                  f"{section['about']}", "", *table(section["rows"]), ""]  # fmt: skip
        for row in section["rows"]:
            if row.get("error") or row.get("wrong"):
                lines += [f"{row['row']}: {row.get('error') or ' '.join(row['wrong'])}", ""]
                lines += ["```", *row["traceback"], "```", ""] if row.get("traceback") else []
    failed = content["failed"]
    lines += [f"Failed: {len(failed)} of {sum(len(section['rows']) for section in content['items'])} rows"
              + (f" ({'; '.join(failed)})." if failed else "."), ""]  # fmt: skip
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows' values in columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row.get("values", {})))
    lines = ["| row | " + " | ".join([*columns, "s", "result"]) + " |", "|" + "---|" * (len(columns) + 3)]
    for row in rows:
        cells = [shown(row.get("values", {}).get(name, "-")) for name in columns]
        result = "**failed**" if row.get("error") or row.get("wrong") else row.get("note") or "passed"
        lines.append("| " + " | ".join([row["row"], *cells, f"{row.get('seconds', 0):.1f}", result]) + " |")
    return lines


def shown(value: Any) -> str:
    """A value in a cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def supervise(items: list[Item], start_worker: Start, minutes: float, report: Report, folder: Path) -> None:
    """Run each item's rows in processes, within shares of `minutes`; what an item leaves of its time, later ones may use."""
    until = time.perf_counter() + 60 * minutes
    for number, item in enumerate(items, start=1):
        left = until - time.perf_counter()
        limit = max(1.0, left * item.share / sum(other.share for other in items[number - 1 :]))
        report.say(f"{number}/{len(items)} {item.name}: {item.title}; {len(item.rows)} rows, at most {limit:.0f} s")
        section, began = report.begin(item), time.perf_counter()
        run_item(item, start_worker, began + limit, section, report, folder)
        failed = sum(bool(row.get("error") or row.get("wrong")) for row in section["rows"])
        section["status"] = f"{failed} of {len(item.rows)} rows failed" if failed else "passed"
        section["seconds"] = round(time.perf_counter() - began, 1)
        report.write()
        report.say(f"{number}/{len(items)} {item.name}: {section['status']} in {section['seconds']:.0f} s")


def run_item(item: Item, start_worker: Start, until: float, section: dict, report: Report, folder: Path) -> None:
    """Start processes until every row has an end: measured, crashed, or out of time."""
    left = list(item.rows)
    while left:
        events, before = folder / f"{item.name}_{len(left)}.jsonl", len(left)
        events.touch()
        process = start_worker(item, left[:], events)
        try:
            current = follow(process, events, left, until, section, report)
            late = process.poll() is None
        finally:
            end(process)
        if late:
            reason, lost = f"Not measured: the time limit of {item.name} was reached.", left[:]
        elif current is not None:
            reason, lost = f"The process ended with {process.returncode} in this row.", [current]
        elif len(left) == before:
            reason, lost = f"The process ended with {process.returncode} before its first row.", left[:]
        else:
            continue  # done, or the device was lost between two rows: the next process gets a working one
        tail = (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-LAST:]
        for row in lost:
            section["rows"].append({"row": row, "error": reason, "traceback": tail if row == lost[0] else []})
            left.remove(row)
            report.say(f"  {row}: {reason}")
        report.write()


def follow(
    process: subprocess.Popen, events: Path, left: list[str], until: float, section: dict, report: Report
) -> str | None:
    """Take in what a process writes until it ends or its time is over; the row that it was at, None between rows."""
    current, rest = None, ""
    with events.open(encoding="utf-8") as file:
        while True:
            ended = process.poll() is not None  # before the last lines are read
            *lines, rest = (rest + file.read()).split("\n")
            for line in lines:
                event = json.loads(line)
                if event.pop("event") == "begins":
                    current = event["row"]
                    continue
                current = None
                left.remove(event["row"])
                section["rows"].append(event)
                report.write()
                result = event.get("error") or " ".join(event.get("wrong", [])) or event.get("note") or "passed"
                report.say(f"  {event['row']}: {result} ({event['seconds']:.1f} s)")
            if ended or time.perf_counter() >= until:
                return current
            time.sleep(0.1)


def end(process: subprocess.Popen) -> None:
    """End a process and what it has started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
        process.wait()


def about(device: torch.device, sizes: str, minutes: float) -> dict[str, Any]:
    """The head of a report."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    found = machine(device) | {"processor": platform.machine(), "system": platform.system()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": driver(),
            "memory_gib": round(properties.total_memory / GIB, 1), "capability": f"{properties.major}.{properties.minor}",
        }  # fmt: skip
    return {"command": command(), "date": now, "device": str(device), "sizes": sizes, "minutes": minutes, "machine": found}


def driver() -> str | None:
    """The version of NVIDIA's driver, from nvidia-smi."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        ended = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=20, check=True)
        return ended.stdout.split("\n")[0].strip()
    return None


def main() -> None:
    items = {item.name: item for item in (*ITEMS, DATA)}
    known = sorted({row for item in items.values() for row in item.rows})
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto (CUDA, else the CPU), cpu, cuda, cuda:1, ...")
    parser.add_argument("--minutes", type=float, help="of all items but `data`; default: 8 on CUDA, 60 on the CPU")
    parser.add_argument("--items", nargs="+", choices=[item.name for item in ITEMS], default=[item.name for item in ITEMS])
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows, e.g. --only bida: those that failed, once more")
    parser.add_argument("--data-root", type=Path, help="a folder with GTA5 and cityscapes: 50 steps of each method")
    parser.add_argument("--least", action="store_true", help="the smallest sizes: whether the script runs, on a CPU")
    parser.add_argument("--out", type=Path, help=f"and .md; default: {OUT['cuda']}, on the CPU {OUT['cpu']}")
    parser.add_argument("--work", help=argparse.SUPPRESS)  # what this script starts: an item, its rows, files
    parser.add_argument("--rows", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--events", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    for row in asked.only or ():
        if row not in known:
            parser.error(f"there is no row {row!r}; there are: {', '.join(known)}")
    if asked.only:
        left = {name: tuple(row for row in item.rows if row in asked.only) for name, item in items.items()}
        items = {name: replace(items[name], rows=rows) for name, rows in left.items() if rows}
    device = choose_device(asked.device)
    device = CPU if device.type == "mps" else device
    sizes = "least" if asked.least else "full" if device.type == "cuda" else "small"
    if asked.work:
        work(items[asked.work], json.loads(asked.rows), Place(device, sizes, asked.folder, asked.data_root), asked.events)
        return

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def start_worker(item: Item, rows: list[str], events: Path) -> subprocess.Popen:
            words = [sys.executable, "-m", "benchmarks.gpu_check", "--work", item.name, "--rows", json.dumps(rows)]
            words += ["--device", str(device), "--folder", name, "--events", str(events)]
            words += ["--least"] * asked.least + (["--data-root", str(asked.data_root.resolve())] if asked.data_root else [])
            own = {"COURSE_CACHE": str(folder / "cache")}
            if item.name == "resume":
                own["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA starts; deterministic matrix products need it
            with (folder / "stderr.txt").open("w", encoding="utf-8") as log:
                return subprocess.Popen(words, cwd=ROOT, env=os.environ | own, stdout=log, stderr=log, start_new_session=True)

        minutes = asked.minutes or (8 if device.type == "cuda" else 60)
        report = Report(asked.out or ROOT / OUT[device.type], about(device, sizes, minutes))
        report.say(f"{report.content['machine']['gpu'] or 'CPU'}, torch {torch.__version__}, {sizes} sizes")
        supervise([items[key] for key in asked.items if key in items], start_worker, minutes, report, folder)
        if asked.data_root and DATA.name in items:
            supervise([items[DATA.name]], start_worker, DATA.share / 60 if device.type == "cuda" else 60, report, folder)
        report.say(f"{len(report.failed)} rows failed; written: {report.out.with_suffix('.json')} and .md")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
