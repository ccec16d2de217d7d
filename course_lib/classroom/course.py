"""The course as a whole: its pages with their exercises, and networks to try on a photograph (notebook 00)."""

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from course_lib.classroom import figures
from course_lib.classroom.checks import (
    adversarial,
    bidirectional,
    contrast_terms,
    contrastive,
    few_labels,
    mean_teacher,
    prototypes,
    results,
    scores,
)
from course_lib.classroom.checks.machinery import Check
from course_lib.engine import CheckpointError
from course_lib.evaluation import predict
from course_lib.evaluation.predict import LABELS, read_picture
from course_lib.experiments.shipped import shipped_start
from course_lib.experiments.train import build_segmenter, load_network
from course_lib.files import open_regular, write_whole
from course_lib.networks import Segmenter
from course_lib.recipes import Recipe, recipe


@dataclass(frozen=True)
class Page:
    """A notebook of the course."""

    stem: str
    name: str
    modules: tuple[object, ...]  # of its exercises
    needs: tuple[str, ...] = ()  # pages, by the number they begin with
    minutes: int = 3

    @property
    def number(self) -> str:
        """The two digits that its file begins with."""
        return self.stem[:2]

    @property
    def exercises(self) -> dict[str, Check]:
        """{name: check} of its exercises."""
        return {name: check for part in self.modules for name, check in vars(part).items() if isinstance(check, Check)}


PAGES = (
    Page("01_domain_gap", "The domain gap", (scores,)),
    Page("02_adaptsegnet", "AdaptSegNet", (adversarial,), ("01",)),
    Page("03_simclr", "SimCLR", (contrastive,)),
    Page("04_proca", "ProCA", (prototypes,), ("02", "03")),
    Page("05_bida", "BiDA", (bidirectional,), ("04",)),
    Page("06_gta5_to_cityscapes", "GTA5 → Cityscapes", (results,), ("05",), 5),
    Page("07_after_the_seminar", "After the seminar", (mean_teacher, contrast_terms), ("04",)),
    Page("08_few_labels", "Few labels", (few_labels,), ("07",), 4),
)


# ---- a photograph ------------------------------------------------------------------------------------------------------


def networks_here(folder: Path | str = "..", most: int = 4) -> dict[str, tuple[Segmenter, Recipe]]:
    """Networks that can segment a street: the start that comes with the library, and the newest ones below FOLDER/runs.

    A network of code from outside the library is left out, as are files that are not whole.
    """
    own = recipe("ministreet", "source-only").override("start_from=ministreet")
    start = build_segmenter(own)
    start.load_state_dict(shipped_start(own))
    found = {"source-only, as shipped": (start.eval(), own)}
    newest = sorted(Path(folder).glob("runs/**/best.pt"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest:
        if len(found) > most:
            break
        with suppress(CheckpointError, OSError, ValueError):
            network, its = load_network(path)
            name = path.parent.relative_to(Path(folder) / "runs").as_posix()
            found[f"{its.method}: {name}"] = (network.eval(), its)
    return found


def segmented(picture: Path | str | bytes, networks: dict[str, tuple[Segmenter, Recipe]], width: float = 12.0) -> Figure:
    """A photograph (a file, or its content) and what each network says about it, as one figure; the file is not changed."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "photo"
        if isinstance(picture, bytes):
            write_whole(path, picture)
        else:
            with open_regular(Path(picture).expanduser()) as file:
                write_whole(path, file.read())
        photo = Image.fromarray(read_picture(path).image.permute(1, 2, 0).numpy())  # upright
        small, columns = _smaller(photo.size), {}
        for k, (name, (network, own)) in enumerate(networks.items()):
            predict(network, [path], Path(place) / str(k), own.space, size=own.test_size or (128, 256), progress=False)
            with Image.open(Path(place) / str(k) / f"photo{LABELS}") as labels:
                columns[name] = np.asarray(labels.resize(small, Image.Resampling.NEAREST)).astype(np.int64)
    space = next(iter(networks.values()))[1].space
    named = {name.replace("_", " "): labels for name, labels in columns.items()}
    return figures.show(photo=np.asarray(photo.resize(small, Image.Resampling.BICUBIC)), **named, space=space, width=width)


def _smaller(size: tuple[int, int], most: int = 640) -> tuple[int, int]:
    factor = min(1.0, most / max(size))
    return max(1, round(factor * size[0])), max(1, round(factor * size[1]))


def upload(networks: dict[str, tuple[Segmenter, Recipe]], example: Path | str) -> None:
    """Show `segmented(example)` and a button that takes a photograph of the reader's in its place."""
    from IPython.display import display

    shown = display(segmented(example, networks), display_id=True)
    try:
        import ipywidgets
    except ImportError:
        print("The button needs ipywidgets. Without it: course.segmented('my_street.jpg', networks).")
        return
    button = ipywidgets.FileUpload(accept="image/*", description="your photo")

    def redraw(change: dict) -> None:
        if change["new"]:
            shown.update(segmented(bytes(change["new"][-1]["content"]), networks))

    button.observe(redraw, names="value")
    display(button)
