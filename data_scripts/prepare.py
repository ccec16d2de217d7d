"""Resize a data set once, before a long training; the same as `uda data prepare`.

    python data_scripts/prepare.py gta5:/data/GTA5 --out /fast/gta5 --size 1280x720 --skip-bad
    python data_scripts/prepare.py cityscapes:/data/cityscapes --out /fast/cityscapes --size 1024x512 --split train --split val
"""

import sys

from course_lib.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["data", "prepare"]
    main()
