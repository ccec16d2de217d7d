"""Docstrings as Markdown. They are plain text, as `help()` shows them: equations with * and _, indented lines, examples.

Sentences become paragraphs; lines that are indented, and examples, are shown as they are written. A value that has no docstring
gets the comment behind it, where the settings name the source of their defaults.
"""

import html
import io
import re
import tokenize
from functools import cache
from pathlib import Path
from textwrap import dedent

ITEM = re.compile(r"[a-z_*`][\w.`*]*[^:]{0,90}: ")  # "features (N, D): ..."


def escaped(text: str) -> str:
    """A plain text as Markdown that shows it, also in a table; code in backticks stays code."""
    def plain(part: str) -> str:
        part = part.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
        return re.sub(r"([\\*_{}\[\]#`])(?!\d+;)", r"\\\1", part)

    def code(part: str) -> str:
        return f"<code>{html.escape(part.strip('`'), quote=False).replace('|', '&#124;')}</code>" if "|" in part else part

    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(code(part) if n % 2 else plain(part) for n, part in enumerate(parts))


def blocks(text: str) -> list[list[str]]:
    """The lines between blank lines; an example with blank lines in its output is several."""
    return [block.split("\n") for block in re.split(r"\n\s*\n", text.strip("\n")) if block.strip()]


def as_is(lines: list[str], language: str = "text") -> str:
    return f"```{language}\n" + dedent("\n".join(lines)) + "\n```"


def markdown(text: str) -> str:
    """A docstring as Markdown that shows every character of it."""
    parts = []
    for lines in blocks(text):
        if lines[0].lstrip().startswith(">>>"):
            parts.append(as_is(lines, "pycon"))
        elif all(line.startswith((" ", "\t")) for line in lines):
            parts.append(as_is(lines))
        else:
            parts += paragraph(lines)
    return "\n\n".join(parts)


def paragraph(lines: list[str]) -> list[str]:
    """Sentences; arguments, "name: text" with indented lines after them, as a list; columns as they are."""
    if any(re.search(r"\S {2,}\S", line) for line in lines):
        first = next(n for n, line in enumerate(lines) if n and line.startswith(" ") or re.search(r"\S {2,}\S", line))
        return [*([sentence(lines[:first])] if first else []), as_is(lines[first:])]
    groups: list[list[str]] = []
    for line in lines:
        if groups and line.startswith(" "):
            groups[-1].append(line)
        else:
            groups.append([line])
    if len(lines) > 1 and all(ITEM.match(group[0]) for group in groups):
        return ["\n".join(f"- {sentence(group)}" for group in groups)]
    parts: list[str] = []
    plain: list[str] = []
    for group in groups:
        plain.append(group[0])
        if re.fullmatch(r"\w+:", group[0]):  # Raises:
            plain += group[1:]
        elif len(group) > 1:
            parts += [sentence(plain), as_is(group[1:])]
            plain = []
    return [*parts, *([sentence(plain)] if plain else [])]


def sentence(lines: list[str]) -> str:
    """The lines as one; what Markdown would read as a list or heading is text."""
    return re.sub(r"^([-+>]|\d+(?=[.)]))", r"\\\1", escaped(" ".join(line.strip() for line in lines)))


@cache
def comments(file: Path) -> dict[int, str]:
    """{number of the line: the comment on it} of a Python file."""
    with open(file, encoding="utf-8") as stream:
        tokens = tokenize.generate_tokens(io.StringIO(stream.read()).readline)
        return {token.start[0]: token.string.lstrip("# ") for token in tokens
                if token.type == tokenize.COMMENT and token.string != "# fmt: skip"}  # fmt: skip
