"""Check every file of a data set; the same as `uda data check`.

    python data_scripts/check_data.py gta5:/data/GTA5
    python data_scripts/check_data.py cityscapes:/data/cityscapes --split val --workers 8
"""

import argparse
import sys

from course_lib.data import check
from course_lib.os_errors import in_words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", help="layout:path")
    parser.add_argument("--split", default="train")
    parser.add_argument("--workers", type=int, help="threads; default: one a core")
    parser.add_argument("--no-labels", action="store_true", help="look at pictures alone")
    arguments = parser.parse_args()
    try:
        report = check(arguments.spec, arguments.split, labelled=not arguments.no_labels, workers=arguments.workers)
    except (ValueError, OSError) as error:
        parser.error(in_words(error))
    print(report.table())
    sys.exit(not report.ok)


if __name__ == "__main__":
    main()
