"""What the notebooks share: start, progress, figures, widgets, and checks that answer an exercise with a hint.

    from course_lib import classroom
    session = classroom.start(seed=0)
    for step in (bar := classroom.progress(range(session.pick(fast=200, full=20_000)), "adapt")):
        ...
        bar.show(segmentation=loss)
    session.stamp()
"""

from course_lib.classroom import checks, figures, landmarks
from course_lib.classroom.progress import progress
from course_lib.classroom.solved import solved
from course_lib.classroom.start import start
from course_lib.classroom.widgets import slider

__all__ = ["checks", "figures", "landmarks", "progress", "slider", "solved", "start"]
