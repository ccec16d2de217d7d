"""Links: where the site has what a link of the repository leads to, and a check of every link of the built site."""

import html
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from content import LINK, ROOT, place

SEEN = re.compile(r"""<(?:a|img|link|script|iframe|source)\b[^>]*?\s(?:href|src)=("[^"]*"|'[^']*'|[^\s>]+)""")
LOADED = re.compile(r"""<(?:img|script|iframe|source|link)\b[^>]*?\s(?:href|src)=["']?((?:https?:)?//[^"'\s>]+)""")
IDS = re.compile(r"""\s(?:id|name)=("[^"]*"|'[^']*'|[^\s>]+)""")
CODE = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)|`[^`\n]+`)", re.M | re.S)


def repository_path(link: str, page: str) -> tuple[str, str] | None:
    """(path from the repository's root, fragment) of a relative link; None of other links."""
    parts = urlsplit(html.unescape(link))
    if parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(parts.path))), parts.fragment


def in_markdown(text: str, here: str) -> str:
    """A page of the repository whose links to files that are no pages lead to what the site has for them."""
    def rewritten(match: re.Match) -> str:
        found = repository_path(match[1], here)
        if found is None or not (ROOT / found[0]).exists():
            return match[0]
        target = posixpath.relpath(place(found[0]), posixpath.dirname(here) or ".")
        return match[0].replace(match[1], quote(target) + (f"#{found[1]}" if found[1] else ""))

    text = text.replace("<details>", '<details markdown="1">')
    return "".join(part if n % 2 else LINK.sub(rewritten, part) for n, part in enumerate(CODE.split(text)))


def in_html(text: str, here: str, url: Callable[[str], str | None]) -> str:
    """The same for a notebook, of which nbconvert has made HTML; url("path of the site") is relative to the page."""
    def rewritten(match: re.Match) -> str:
        found = repository_path(match[2], here)
        target = url(place(found[0])) if found else None
        if target is None:
            return match[0]
        return match[1] + target + (f"#{quote(found[1])}" if found[1] else "") + match[3]

    return re.sub(r'(<a\b[^>]*?\shref=")([^"]+)(")', rewritten, text)


# ---- the built site ----------------------------------------------------------------------------------------------------


def wrong_links(site: Path) -> list[str]:
    """What is wrong with the links of a built site: no such file, no such place in it, something loaded from outside."""
    pages = {file.relative_to(site).as_posix(): file.read_text(encoding="utf-8") for file in sorted(site.rglob("*.html"))}
    ids = {name: {html.unescape(found.strip("\"'")) for found in IDS.findall(text)} for name, text in pages.items()}
    wrong = []
    for name, text in pages.items():
        if name == "404.html":
            continue  # its links begin at the site's root
        wrong += [f"{name}: loads {address}" for address in LOADED.findall(text)]
        for raw in sorted({html.unescape(found.strip("\"'")) for found in SEEN.findall(text)}):
            parts = urlsplit(raw)
            if parts.scheme or parts.netloc:
                continue
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path))) if parts.path else name
            if not (site / target).is_file():
                wrong.append(f"{name}: {raw} does not exist")
            elif parts.fragment and target in ids and unquote(parts.fragment) not in ids[target]:
                wrong.append(f"{name}: {raw} exists, without a place of this name")
    return wrong
