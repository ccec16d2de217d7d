"""Checks of the exercises: they answer with a hint, never with a traceback, so "Run All" passes on empty stubs.

    checks.iou(my_iou)              # ○ not attempted / ✗ with a hint / ✓
    checks.iou(solution).require()  # raises unless it is right
    checks.ALL                      # name -> Check, found by looking into this folder
"""

from course_lib.classroom.checks.machinery import Case, Check, Result
from course_lib.registry import modules_of

ALL: dict[str, Check] = {
    name: check
    for module in modules_of(__name__, __path__)
    for name, check in vars(module).items()
    if isinstance(check, Check)
}
globals().update(ALL)

__all__ = ["ALL", "Case", "Check", "Result", *ALL]
