"""Run notebooks in place and leave them clean: `python -m course_lib.classroom.execute notebooks`.

Clean means: nothing in the file that another run on another machine would change without need. Progress bars and
sliders become the text that they showed last, cell ids follow the cells' order, timings and machine names go.
A notebook that fails is left as it was.
"""

import argparse
import base64
import html
import io
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from course_lib.classroom.solved import SOLVED
from course_lib.files import write_whole

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
VISIBLE = 1.5  # mean change of a channel, of 255, from which a figure keeps more than 256 colours
FLAT, MOST_FLAT = 40, 160  # pixels of one colour that make an area, a patch of a legend; how many such colours are kept at most
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}


def execute(path: Path, timeout: int = 900) -> float:
    """Run one notebook in a fresh kernel of this environment and rewrite it, clean; returns the seconds.

    The new file replaces the old one at once or not at all. Raises CellExecutionError with the cell and its traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    began = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
    )
    client.execute(env=os.environ | {SOLVED: "none"})
    clean(notebook)
    nbformat.validate(notebook)
    write_whole(path, nbformat.writes(notebook).rstrip("\n") + "\n")
    return time.perf_counter() - began


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Strip, in place, what should not be committed; outputs that a reader looks at stay."""
    states = notebook.metadata.pop("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    kept = {key: value for key, value in notebook.metadata.items() if key == "course"}
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE, **kept})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells, start=1):
        cell["id"] = f"cell-{number:02d}"
        if cell.cell_type != "code":
            continue
        for key in ("execution", "ExecuteTime", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
        cell.outputs = [output for output in merged(cell.outputs) if settle(output, states)]
    return notebook


def merged(outputs: list) -> list:
    """Neighbouring pieces of the same stream as one: where they were cut depends on the machine's speed."""
    result = []
    for output in outputs:
        previous = result[-1] if result else None
        if output.output_type == "stream" and previous is not None and previous.get("name") == output.name:
            previous["text"] += output.text
        else:
            result.append(output)
    return result


def settle(output: nbformat.NotebookNode, states: dict) -> bool:
    """Make one output independent of the run; False when nothing of it is left.

    Widgets become text, text drawn over (a carriage return) and addresses of objects go. Figures are stored in fewer bytes.
    """
    if output.output_type == "stream":
        output["text"] = "\n".join(line.rsplit("\r", 1)[-1] for line in output.text.split("\n"))
        return bool(output["text"].strip())
    output.get("metadata", {}).pop("transient", None)
    data = output.get("data", {})
    if "image/png" in data:
        kind, content = _packed(data.pop("image/png"))
        data[kind] = content
        if "image/png" in (about := output.get("metadata", {})):  # its description
            about[kind] = about.pop("image/png")
    if WIDGET_VIEW in data:
        text = widget_text(data.pop(WIDGET_VIEW).get("model_id"), states)
        data.clear()
        data["text/plain"] = text
        return bool(text)
    if "text/plain" in data:
        data["text/plain"] = re.sub(r" at 0x[0-9a-fA-F]+", "", data["text/plain"])
    return True


def _packed(png: str) -> tuple[str, str]:
    """A figure in base64 with its MIME type, in fewer bytes: with 256 colours, which cannot be told from the original on lines,
    text and label maps; where they can, in a figure full of photographs, the smaller of PNG and JPEG."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        if image.mode == "P":  # packed before
            return "image/png", png
        dpi = {"dpi": image.info["dpi"]} if "dpi" in image.info else {}
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(image, mask=image.getchannel("A") if "A" in image.getbands() else None)
    few = with_256_colours(rgb)
    if np.abs(np.asarray(rgb, dtype=np.int16) - np.asarray(few.convert("RGB"))).mean() < VISIBLE:
        return "image/png", _encoded(few, "PNG", optimize=True, **dpi)
    ways = [("image/png", _encoded(rgb, "PNG", optimize=True, **dpi)),
            ("image/jpeg", _encoded(rgb, "JPEG", quality=90, subsampling=0, optimize=True, **dpi))]  # fmt: skip
    return min(ways, key=lambda way: len(way[1]))


def with_256_colours(rgb: Image.Image) -> Image.Image:
    """A picture with a palette. Colours of flat areas, such as those of classes, stay what they are: two classes, two colours;
    the rest is brought to what is left of the palette."""
    pixels = np.asarray(rgb).reshape(-1, 3).astype(np.uint32)
    packed = pixels[:, 0] << 16 | pixels[:, 1] << 8 | pixels[:, 2]
    colours, places, counts = np.unique(packed, return_inverse=True, return_counts=True)
    flat = np.argsort(-counts, kind="stable")
    if len(colours) > 256:
        flat = flat[:MOST_FLAT][counts[flat[:MOST_FLAT]] >= FLAT]
    few = rgb.quantize(max(2, 256 - len(flat)), kmeans=2, dither=Image.Dither.NONE)
    index_of = np.full(len(colours), -1)
    index_of[flat] = np.arange(len(flat))
    own = index_of[places.reshape(-1)]
    index = np.where(own >= 0, own, np.asarray(few).reshape(-1).astype(np.int64) + len(flat))
    found = Image.fromarray(index.astype(np.uint8).reshape(rgb.height, rgb.width), "P")
    palette = [int(part) for colour in colours[flat] for part in (colour >> 16, colour >> 8 & 255, colour & 255)]
    found.putpalette(palette + (few.getpalette() or [])[: max(0, 3 * (256 - len(flat)))])
    return found


def _encoded(image: Image.Image, kind: str, **options) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()


def widget_text(model_id: str | None, states: dict) -> str:
    """What a widget showed last, in words: a bar its numbers, a slider its name and value, a box its children."""
    state = states.get(model_id, {})
    name, values = state.get("model_name", ""), state.get("state", {})
    if name in ("HTMLModel", "LabelModel"):
        return " ".join(html.unescape(re.sub(r"<[^>]+>", "", values.get("value", ""))).split())
    if name.endswith("ProgressModel"):
        done = values.get("value", 0) / (values.get("max") or 1)
        return "|" + ("█" * round(20 * min(1.0, done))).ljust(20) + "|"
    if "children" in values:
        inner = [widget_text(child.removeprefix("IPY_MODEL_"), states) for child in values["children"]]
        return " ".join(text for text in inner if text)
    if "value" in values and "description" in values:
        return f"[{values['description']}: {values['value']}, to be moved in a running notebook]"
    return ""


def notebooks_in(path: Path) -> list[Path]:
    """The notebooks of a folder in order, or the one named."""
    return sorted(path.glob("*.ipynb")) if path.is_dir() else [path]


def main(arguments: list[str] | None = None) -> int:
    """The command: every notebook named, and every one in the folders named."""
    parser = argparse.ArgumentParser(prog="course_lib.classroom.execute", description="Run notebooks in place, clean.")
    parser.add_argument("paths", nargs="+", type=Path, help="notebooks, or folders of notebooks")
    parser.add_argument("--timeout", type=int, default=900, help="seconds a cell may take (default 900)")
    options = parser.parse_args(arguments)
    missing = [str(path) for path in options.paths if not path.exists()]
    if missing:
        parser.error(f"no such notebook or folder: {', '.join(missing)}")
    failed = 0
    for path in [notebook for place in options.paths for notebook in notebooks_in(place)]:
        try:
            print(f"{path}: {execute(path, options.timeout):.0f} s", flush=True)
        except CellExecutionError as error:
            failed += 1
            print(f"{path}: failed, left as it was\n{error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
