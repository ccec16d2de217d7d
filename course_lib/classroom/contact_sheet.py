"""All figures of the notebooks on one page, to be looked at before a commit: `python -m course_lib.classroom.contact_sheet`.

Each stands with its notebook, its cell and its size in pixels; one that is narrower than `WIDE_ENOUGH` is marked.
"""

import argparse
import base64
import html
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from course_lib.classroom.execute import notebooks_in
from course_lib.files import comment, read_text, write_result

KIND = "make figures"
WIDE_ENOUGH = 900  # pixels across

PAGE = """<!doctype html>{mark}<meta charset="utf-8"><title>Figures of the notebooks</title>
<style>body {{ font: 14px sans-serif; margin: 2em; columns: 3 420px; }} figure {{ break-inside: avoid; margin: 0 0 1.5em; }}
img {{ width: 100%; border: 1px solid #ccc; }} .narrow {{ color: #b3261e; }}</style>
{figures}
"""


@dataclass(frozen=True)
class Shown:
    """A figure that a notebook shows."""

    notebook: str
    cell: int  # from 1, as in its id
    kind: str  # MIME type
    data: str  # base64
    size: tuple[int, int]  # width, height


def figures_of(path: Path) -> Iterator[Shown]:
    """The stored figures of a notebook, in its order."""
    for number, cell in enumerate(json.loads(read_text(path))["cells"], start=1):
        for output in cell.get("outputs", ()):
            for kind, data in output.get("data", {}).items():
                if kind in ("image/png", "image/jpeg"):
                    text = "".join(data)
                    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
                        yield Shown(path.stem, number, kind, text, image.size)


def contact_sheet(shown: list[Shown]) -> str:
    """The page, one HTML file with the figures in it."""
    lines = []
    for figure in shown:
        width, height = figure.size
        narrow = ' class="narrow"' * (width < WIDE_ENOUGH)
        caption = f"{html.escape(figure.notebook)}, cell {figure.cell}, {width} x {height}"
        picture = f'<img src="data:{figure.kind};base64,{figure.data}" alt="{caption}">'
        lines.append(f"<figure>{picture}<figcaption{narrow}>{caption}</figcaption></figure>")
    return PAGE.format(mark=comment(KIND), figures="\n".join(lines))


def main(arguments: list[str] | None = None) -> None:
    """The command line: figures of notebooks, or of folders of notebooks, as one HTML page."""
    parser = argparse.ArgumentParser(prog="course_lib.classroom.contact_sheet", description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, default=[Path("notebooks")], help="notebooks, or folders of notebooks")
    parser.add_argument("--out", type=Path, default=Path("runs", "figures.html"), help="the page (default runs/figures.html)")
    options = parser.parse_args(arguments)
    shown = [figure for place in options.paths for path in notebooks_in(place) for figure in figures_of(path)]
    write_result(options.out, contact_sheet(shown), KIND)  # never over somebody else's file
    narrow = sum(figure.size[0] < WIDE_ENOUGH for figure in shown)
    print(f"{options.out}: {len(shown)} figures, {narrow} of them narrower than {WIDE_ENOUGH} pixels")


if __name__ == "__main__":
    main()
