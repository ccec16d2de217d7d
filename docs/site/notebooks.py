"""Notebooks as pages: their HTML in the site's own style, equations as MathML, headings in the table of contents.

nbconvert brings JupyterLab's style sheets with every page and loads MathJax and mermaid from the network. All of it is taken
out. Equations become MathML, which browsers draw themselves (Firefox, Safari, and Chrome and Edge from version 109): no script,
no font from elsewhere, and they can be read in both themes.
"""

import html
import re
import unicodedata

KEPT = re.compile(r"(<pre\b.*?</pre>|<code\b.*?</code>)", re.S)
MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$([^$]+?)\$(?!\d)", re.S)
TAG = re.compile(r"\\tag\{([^}]*)\}")
ARG = re.compile(r"\\arg(?![a-zA-Z])")  # latex2mathml knows no \arg
HEADING = re.compile(r'<h([1-6])\b[^>]*?\bid="([^"]*)"[^>]*>(.*?)<a\b[^>]*class="anchor-link"[^>]*>.*?</a></h\1>', re.S)
CODE = re.compile(r'<div\b[^>]*class="highlight-ipynb([^"]*)"[^>]*><pre>(?:<span></span>)?(.*?)</pre>', re.S)
BUTTONS = re.compile(
    r'<div class="zeroclipboard-container">.*?</clipboard-copy>\s*</div>'
    r'|<div\b(?=[^>]*class="clipboard-copy-txt")[^>]*>.*?</div>'
    r'|<div class="celltoolbar">(?:\s*<div class="button_container[^>]*>.*?</div>)*\s*</div>', re.S)  # fmt: skip
VARIANT = re.compile(r'<m([ion])[^>]* mathvariant="(script|double-struck|bold)"[^>]*>(\w)</m\1>')
PRIME = re.compile(r"<msup>(<mi[^>]*>[^<]*</mi>)<m[io]>((?:&#x02032;)+)</m[io]></msup>")  # else raised twice
CELL = '<div class="jp-Cell '


def letter(match: re.Match) -> str:
    """A letter of another alphabet as a character of its own: browsers no longer read `mathvariant`."""
    kind, name = match[2].upper(), unicodedata.name(match[3]).replace("LATIN ", "").replace("LETTER ", "")
    try:
        sign = unicodedata.lookup(f"MATHEMATICAL {kind} {name}")
    except KeyError:  # the first ones that Unicode had
        sign = unicodedata.lookup(f"{kind} {name}")
    return f'<mi mathvariant="normal">{sign}</mi>'


def mathml(latex: str, display: bool) -> str:
    """One equation; its number, `\\tag{1}`, stands at the right."""
    from latex2mathml.converter import convert  # of requirements-docs.lock: the tests read this file without it

    number = TAG.search(latex)
    known = ARG.sub(r"\\operatorname{arg}", TAG.sub("", latex)).strip()
    drawn = convert(known, display="block" if display else "inline")
    drawn = PRIME.sub(r'<mrow>\1<mo lspace="0" rspace="0">\2</mo></mrow>', VARIANT.sub(letter, drawn))
    if "\\" in re.sub(r"<annotation.*?</annotation>", "", drawn):
        raise ValueError(f"latex2mathml does not know a command of this equation; write it in another way: {latex}")
    if not display:
        return drawn
    return f'<span class="equation">{drawn}' + (f"<span>({number[1]})</span>" if number else "") + "</span>"


def with_mathml(text: str) -> str:
    """The HTML of a text cell with its equations drawn; code stays."""
    def drawn(match: re.Match) -> str:
        display = match[1] is not None
        return mathml(html.unescape(match[1] if display else match[2]), display)

    return "".join(part if n % 2 else MATH.sub(drawn, part) for n, part in enumerate(KEPT.split(text)))


def in_site_style(content: str) -> str:
    """The cells alone, without nbconvert's styles, scripts and buttons; code in the site's highlighting."""
    start, end = content.index('<div class="jupyter-wrapper">'), content.rindex("<!-- jupyter-wrapper -->")
    content = BUTTONS.sub("", content[start:end])
    content = CODE.sub(r'<div class="highlight\1"><pre><code>\2</code></pre>', content)
    first, *cells = content.split(CELL)
    return CELL.join([first, *(with_mathml(cell) if "jp-MarkdownCell" in cell[:60] else cell for cell in cells)])


def contents(content: str) -> tuple[str, list[dict]]:
    """The HTML with the site's links at headings, and their levels, ids and names."""
    top: list[dict] = []
    path: list[dict] = []

    def kept(match: re.Match) -> str:
        level, name = int(match[1]), html.unescape(re.sub(r"<[^>]+>", "", match[3])).strip()
        place = match[2] or "-".join(re.findall(r"\w+", name.lower()))  # nbconvert finds no id in Korean words
        entry = {"level": level, "id": place, "name": name, "children": []}
        while path and path[-1]["level"] >= level:
            path.pop()
        (path[-1]["children"] if path else top).append(entry)
        path.append(entry)
        link = f'<a class="headerlink" href="#{place}" title="Permanent link">&para;</a>'
        return f'<h{level} id="{place}">{match[3]}{link}</h{level}>'

    return HEADING.sub(kept, content), top
