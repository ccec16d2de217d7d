"""What the live runs of the notebooks gain on pictures and seeds that the pages do not use.

    python -m benchmarks.live_runs 04 [--pictures 30 40 50] [--seeds 100 101] [--out FILE.md]

The page's own cells run, up to the one that fills `gains`, {row: points over the control of equal compute, by seed}. In place
of the page's pictures (drawn with 21, 22 and 23) and seeds they get those of the command line: --pictures 30 draws with 31, 32
and 33.
"""

import argparse
import contextlib
import io
import json
import os
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.measuring import command, hand_over

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
DRAWN = (r'\("gta5", 21\), \("cityscapes", 22\)', r"(?<=\), )23(?=, size)")  # a page's pictures: source and target, scored
SEEDS = r"(?m)^SEEDS = \([\d, ]+\)"


def cells(page: str, pictures: int, seeds: Sequence[int]) -> list[str]:
    """The code cells of a notebook, with other pictures and seeds.

    Raises ValueError where the page names its pictures or seeds in another way, which would leave them as they are.
    """
    (path,) = NOTEBOOKS.glob(f"{page}_*.ipynb")
    code = ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
            if cell["cell_type"] == "code"]  # fmt: skip
    replaced = {
        DRAWN[0]: f'("gta5", {pictures + 1}), ("cityscapes", {pictures + 2})',
        DRAWN[1]: str(pictures + 3),
        SEEDS: f"SEEDS = {tuple(seeds)}",
    }
    for pattern, new in replaced.items():
        found = sum(len(re.findall(pattern, text)) for text in code)
        if found != 1:
            raise ValueError(f"{path.name}: wanted one place like {pattern}, found {found}.")
        code = [re.sub(pattern, new, text) for text in code]
    return code


def live_gains(page: str, pictures: int, seeds: Sequence[int]) -> dict[str, list[float]]:
    """{row: gain over its control in mIoU points, by seed} as the page computes them."""
    names: dict[str, Any] = {"display": lambda *shown: None, "__name__": "live_runs"}
    with contextlib.chdir(NOTEBOOKS), contextlib.redirect_stdout(io.StringIO()):
        for text in cells(page, pictures, seeds):
            with contextlib.suppress(AssertionError):  # at a cell's end, about what the page's own pictures show
                exec(compile(text, f"notebook {page}", "exec"), names)
            if "gains" in names:
                return names["gains"]
    raise ValueError(f"No cell of notebook {page} fills `gains`.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("page")
    parser.add_argument("--pictures", type=int, nargs="+", default=[30, 40, 50])
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    matplotlib.use("agg")
    os.environ.pop("COURSE_FULL", None)
    out = args.out.absolute() if args.out else None
    heads = " | ".join(f"seed {seed}" for seed in args.seeds)
    lines = [f"| pictures | row | {heads} | mean |", "|---" * (3 + len(args.seeds)) + "|"]
    by_row: dict[str, list[float]] = {}
    for pictures in args.pictures:
        for row, points in live_gains(args.page, pictures, args.seeds).items():
            by_row.setdefault(row, []).extend(points)
            each = " | ".join(f"{value:+.1f}" for value in points)
            lines.append(f"| {pictures + 1} to {pictures + 3} | {row} | {each} | {statistics.fmean(points):+.1f} |")
    lines += [f"| all | {row} |{' |' * len(args.seeds)} {statistics.fmean(points):+.1f} |" for row, points in by_row.items()]
    hand_over([*lines, "", f"Made by `{command()}`."], out)


if __name__ == "__main__":
    main()
