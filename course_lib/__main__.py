"""`python -m course_lib ...` is the command `uda ...`."""

from course_lib.cli import main

main()
