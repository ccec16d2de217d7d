"""Check every file of a data set; the same as `uda data check`.

    python data_scripts/check_data.py gta5:/data/GTA5
    python data_scripts/check_data.py cityscapes:/data/cityscapes --split val --workers 8
"""

import sys

from course_lib.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["data", "check"]
    main()
