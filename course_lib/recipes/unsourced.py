"""The numbers of the full-size recipes that no paper, release or slide gives: `python -m course_lib.recipes.unsourced`.

Read from the source text, so that a number written tomorrow is found: in the recipes every numeric keyword argument, in the
settings that hold the defaults every numeric field, whose comment (on its lines, or on the comment lines directly above) names
no source as [code], [paper], [readme] or [slides], or says that it is "ours" or has none.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from course_lib.terminal import print

RECIPES = ("course_lib.recipes.gta5_cityscapes", "course_lib.recipes.synthia_cityscapes")
SETTINGS = (
    "course_lib.methods.adaptsegnet", "course_lib.methods.bida", "course_lib.methods.proca", "course_lib.methods.self_training",
    "course_lib.methods.base", "course_lib.evaluation.labelling", "course_lib.engine.loop", "course_lib.recipes.recipe",
)  # fmt: skip
SOURCE = re.compile(r"\[(code|paper|readme|slides)\]|released code")
NONE = re.compile(r"\bours\b|no reachable source|not released")


class Unsourced(NamedTuple):
    """A number without source."""

    where: str  # module
    line: int
    name: str
    value: str
    comment: str


def unsourced() -> list[Unsourced]:
    """All of them, in the order of the files."""
    found = []
    for module in RECIPES + SETTINGS:
        numbers = _keywords if module in RECIPES else _fields
        found += [n for n in numbers(module, _text(module)) if not SOURCE.search(n.comment) or NONE.search(n.comment)]
    return found


def _text(module: str) -> str:
    return Path(import_module(module).__file__).read_text(encoding="utf-8")


def _keywords(module: str, text: str) -> Iterator[Unsourced]:
    """Every `name=number` of a call, with its comment."""
    comments = _comments(text)
    for node in ast.walk(ast.parse(text)):
        for keyword in node.keywords if isinstance(node, ast.Call) else ():
            if keyword.arg is not None and _is_number(keyword.value):
                lines = range(keyword.lineno, keyword.end_lineno + 1)
                yield Unsourced(module, keyword.lineno, keyword.arg, ast.unparse(keyword.value), _said(comments, lines))


def _fields(module: str, text: str) -> Iterator[Unsourced]:
    """Every `name: type = number` of a class, with its comment."""
    comments = _comments(text)
    for node in ast.walk(ast.parse(text)):
        for field in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(field, ast.AnnAssign) and field.value is not None and _is_number(field.value):
                said = _said(comments, range(field.lineno, field.end_lineno + 1))
                yield Unsourced(module, field.lineno, field.target.id, ast.unparse(field.value), said)


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return bool(node.elts) and all(map(_is_number, node.elts))
    if isinstance(node, ast.UnaryOp):
        return _is_number(node.operand)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _comments(text: str) -> dict[int, tuple[bool, str]]:
    """{line: (whether it stands alone, comment)}"""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0]: (t.line.lstrip().startswith("#"), t.string) for t in tokens if t.type == tokenize.COMMENT}


def _said(comments: dict[int, tuple[bool, str]], lines: range) -> str:
    own = [comments[line][1] for line in lines if line in comments]
    above, line = [], lines.start - 1
    while not own and line in comments and comments[line][0]:
        above.insert(0, comments[line][1])
        line -= 1
    return " ".join(text.lstrip("# ") for text in own or above)


def listing() -> str:
    """One number a line."""
    places = [f"{n.where.removeprefix('course_lib.')}:{n.line}" for n in unsourced()]
    rows = [(place, f"{n.name}={n.value}", n.comment or "no comment") for place, n in zip(places, unsourced())]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return "\n".join(f"{where:<{widths[0]}}  {what:<{widths[1]}}  {comment}" for where, what, comment in rows)


if __name__ == "__main__":
    print(listing())
