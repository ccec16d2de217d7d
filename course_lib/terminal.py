"""Text that others chose (names of files, tensors, classes; settings of a file) as it may be shown: without any effect.

A module that prints imports `print` from here in place of Python's own.
"""

import builtins
import re
from typing import Any, TextIO


def shown(text: object, lines: bool = False) -> str:
    r"""`text` with every character that a terminal would obey, or that cannot be encoded, as its escape.

    lines: line breaks and tabs stay; for a text of this library whose names have been through `shown`.

    >>> shown("a\x1b[2J\nb"), shown("a\nb", lines=True), shown("\udcff\u202e é")
    ('a\\x1b[2J\\nb', 'a\nb', '\\udcff\\u202e é')
    """
    keep = " \n\t" if lines else " "
    return "".join(c if c in keep or c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def print(*parts: object, file: TextIO | None = None, **options: Any) -> None:  # noqa: A001
    """Python's `print` of what `shown` makes of each part; those that are texts keep their line breaks, a Path does not."""
    builtins.print(*(shown(part, lines=isinstance(part, str)) for part in parts), file=file, **options)


def code(text: object) -> str:
    """`text` as Markdown's code on one line: nothing in it is a picture, a link or an end of the code.

    >>> code("uda run `x`"), code("<img src=x>")
    ('`` uda run `x` ``', '`<img src=x>`')
    """
    text = shown(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""  # is not shown
    return f"{fence}{space}{text}{space}{fence}"


def in_markdown(text: object) -> str:
    r"""`text` as Markdown shows it, letter by letter.

    >>> in_markdown("<img> *a* `b`")
    '&lt;img> \\*a\\* \\`b\\`'
    """
    return re.sub(r"[\\`*\[\]|~]", r"\\\g<0>", shown(text).replace("&", "&amp;").replace("<", "&lt;"))


def duration(seconds: float) -> str:
    """In the unit that suits.

    >>> duration(3.2), duration(600), duration(9000), duration(400_000)
    ('3.2 s', '10 min', '2.5 h', '4.6 days')
    """
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}" if unit == "min" else f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def gigabytes(size: float) -> str:
    """Bytes as GiB.

    >>> gigabytes(3 * 2**30), gigabytes(2**20)
    ('3.0 GiB', '0.001 GiB')
    """
    digits = 1 if size >= 0.95 * 2**30 else 2 if size >= 2**27 else 3
    return f"{size / 2**30:.{digits}f} GiB"
