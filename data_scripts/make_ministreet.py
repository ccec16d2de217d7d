"""Write MiniStreet to a folder in the layout of a real data set; the same as `uda data make ministreet`.

    python data_scripts/make_ministreet.py gta5 data/ministreet_gta5 --count 400 --seed 1
    python data_scripts/make_ministreet.py cityscapes data/ministreet_cityscapes --count 400 --seed 2 --gap 0.8
"""

import argparse
from pathlib import Path

from course_lib.data.ministreet import DEFAULT_GAP, make
from course_lib.os_errors import in_words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", choices=("gta5", "synthia", "cityscapes"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, required=True, help="number of pictures")
    parser.add_argument("--seed", type=int, default=0, help="sets of different seeds share no scene")
    parser.add_argument("--split", default="train")
    parser.add_argument("--size", default="256x128", help="WIDTHxHEIGHT")
    parser.add_argument("--gap", type=float, default=DEFAULT_GAP, help="0: the game look, 1: the full camera look")
    parser.add_argument("--look", choices=("game", "camera"), help="default: what the layout is in the papers")
    parser.add_argument("--workers", type=int, help="processes; default: all cores")
    arguments = vars(parser.parse_args())
    try:
        width, height = (int(n) for n in arguments["size"].lower().split("x"))
    except ValueError:
        parser.error(f"--size {arguments['size']!r}: give WIDTHxHEIGHT, such as 256x128")
    arguments["size"] = (height, width)
    try:
        print(make(**arguments))
    except (ValueError, OSError) as error:
        parser.error(in_words(error))


if __name__ == "__main__":
    main()
