"""How much memory a training process holds at most, for each method at the size of each small recipe.

    python -m benchmarks.training_memory [--out benchmarks/results/training_memory.md]

Each method trains three steps on random pictures of the recipe's size and batch, in a process of its own: the largest resident
set of the process, torch itself (the row "nothing") included, as `uda compare` and `uda run` record it.
"""

import argparse
import os
import subprocess
import sys
from itertools import repeat
from pathlib import Path

import torch

from benchmarks.measuring import command, give_prototypes, hand_over
from course_lib.data import Batch
from course_lib.engine import PeakMemory, train
from course_lib.experiments.parts import seeded_segmenter
from course_lib.labels import label_space
from course_lib.recipes import recipe as find_recipe
from course_lib.recipes.recipe import build_method

SEGMENTING = ("nothing", "source-only", "adaptsegnet", "proca", "self-training", "bida")
METHODS = {  # of each recipe
    "ministreet": SEGMENTING, "camvid_dusk": SEGMENTING, "ministreet_camvid": SEGMENTING[1:], "ministreet_crops": ("simclr",),
}  # fmt: skip
CROPS = (32, 32)  # of `uda data crops`


def measure(recipe_name: str, method_name: str, threads: int) -> int:
    """Bytes, of this process."""
    torch.set_num_threads(threads)
    memory = PeakMemory("cpu")
    if method_name == "nothing":
        return memory.bytes()
    recipe = find_recipe(recipe_name, method_name).override("steps=3", "schedule_steps=none", "log_every=3")
    method = build_method(recipe, seeded_segmenter(recipe))
    C = label_space(recipe.space).num_classes
    if method_name == "proca":
        give_prototypes(method)
    batches = {}
    for stream, size in (("source", recipe.source_size), ("target", recipe.target_size)):
        shape = (recipe.batch_size, *(recipe.crop or size or CROPS))
        image, label = torch.rand(shape[0], 3, *shape[1:]), torch.randint(0, C, shape)
        batches[stream] = repeat(Batch(image, label, ["random"] * recipe.batch_size))
    train(method, {stream: batches[stream] for stream in recipe.streams}, recipe.loop, quiet=True)
    return memory.bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("RECIPE", "METHOD"), help="measure in this process, and print bytes")
    asked = parser.parse_args()
    if asked.one:
        print(measure(*asked.one, asked.threads))
        return
    versions = f"torch {torch.__version__}, CPU, threads: {asked.threads} of {os.cpu_count()} cores"
    lines = ["# Memory of a training process", "", f"`{command()}`: {versions}.", ""]
    lines += [*__doc__.split("\n\n")[2].splitlines(), ""]
    lines += ["| recipe | method | MiB |", "|---|---|---|"]
    for recipe, methods in METHODS.items():
        for method in methods:
            words = [sys.executable, "-m", "benchmarks.training_memory", "--threads", str(asked.threads)]
            words += ["--one", recipe, method]
            size = int(subprocess.run(words, capture_output=True, check=True, encoding="utf-8").stdout.split()[-1])
            lines.append(f"| {recipe} | {method} | {size / 2**20:,.0f} |")
            print(lines[-1], file=sys.stderr, flush=True)
    hand_over(lines, asked.out)


if __name__ == "__main__":
    main()
