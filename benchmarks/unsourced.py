"""The numbers of the full-size recipes that no paper, release or slide gives: `python -m benchmarks.unsourced`.

Read from the source text, so that a number that is added later is found: in the files of full-size pairs every numeric keyword
argument, in the files of papers those of PUBLISHED and of the full-size pairs in PAIRS, in the settings that hold the defaults
every numeric field, whose comment (on its lines, or on the comment lines directly above) names
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

from course_lib.recipes import PAIRS, papers
from course_lib.registry import modules_of
from course_lib.terminal import print

FULL_SIZE = tuple(name for name, pair in PAIRS.items() if pair.scale == "published")
RECIPES = tuple(f"course_lib.recipes.pairs.{name}" for name in FULL_SIZE)
PAPERS = tuple(module.__name__ for module in modules_of(papers.__name__, papers.__path__))
SETTINGS = (
    "course_lib.methods.adaptsegnet", "course_lib.methods.bida", "course_lib.methods.proca", "course_lib.methods.self_training",
    "course_lib.methods.base", "course_lib.methods.optimisers", "course_lib.evaluation.labelling", "course_lib.engine.loop",
    "course_lib.recipes.recipe", "course_lib.methods.terms.feature_distance", "course_lib.methods.terms.masked_consistency",
    "course_lib.masks",
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
    for module in RECIPES + PAPERS + SETTINGS:
        numbers = _keywords if module in RECIPES else _published if module in PAPERS else _fields
        found += [n for n in numbers(module, _text(module)) if not SOURCE.search(n.comment) or NONE.search(n.comment)]
    return found


def _text(module: str) -> str:
    return Path(import_module(module).__file__).read_text(encoding="utf-8")


def _published(module: str, text: str) -> Iterator[Unsourced]:
    """Every `name=number` of a paper's PUBLISHED, and of the full-size pairs in its PAIRS."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            if "PUBLISHED" in names:
                yield from _keywords(module, text, node.value)
            elif "PAIRS" in names:
                for key, value in zip(node.value.keys, node.value.values, strict=True):
                    if ast.literal_eval(key) in FULL_SIZE:
                        yield from _keywords(module, text, value)


def _keywords(module: str, text: str, within: ast.AST | None = None) -> Iterator[Unsourced]:
    """Every `name=number` of a call, and of a dictionary, with its comment; within: of this part of the text."""
    comments = _comments(text)
    for node in ast.walk(within or ast.parse(text)):
        named = [(keyword.arg, keyword.value, keyword) for keyword in node.keywords] if isinstance(node, ast.Call) else []
        if isinstance(node, ast.Dict):
            named = [(key.value, value, value) for key, value in zip(node.keys, node.values) if isinstance(key, ast.Constant)]
        for name, value, place in named:
            if name is not None and _is_number(value):
                lines = range(place.lineno, place.end_lineno + 1)
                yield Unsourced(module, place.lineno, name, ast.unparse(value), _said(comments, lines))


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


def main() -> None:
    print(listing())


if __name__ == "__main__":
    main()
