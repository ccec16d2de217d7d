"""The first page: what was solved is kept, and a photograph becomes a figure."""

import io
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from course_lib import classroom
from course_lib.classroom import answers, course, figures
from course_lib.engine import save_checkpoint
from course_lib.networks import build
from course_lib.recipes import recipe


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_solved_is_kept_and_shown(cache, monkeypatch):
    session = classroom.start(device="cpu")
    session.use(classroom.checks.ema, lambda *_: ...)
    assert classroom.solved() == {}
    session.use(classroom.checks.ema, answers.ema)
    assert list(classroom.solved()) == ["ema"]
    figure = figures.exercises(course.PAGES, classroom.solved())
    assert "07 After the seminar, 1 of 12" in [text.get_text() for text in figure.axes[0].texts]
    with monkeypatch.context() as aside:
        aside.setenv("COURSE_SOLVED", "none")
        assert classroom.solved() == {}
        session.use(classroom.checks.iou, answers.iou)
    assert list(classroom.solved()) == ["ema"]
    (cache / "exercises.json").write_text("{", encoding="utf-8")
    assert classroom.solved() == {}


def test_a_cache_that_cannot_be_written_stops_no_exercise(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file"))
    session = classroom.start(device="cpu")
    assert session.use(classroom.checks.ema, answers.ema)(1.0, 0.0, 0, 0.9) == 0.0
    assert classroom.solved() == {}


def test_the_map_has_an_arrow_for_each_need():
    axes = figures.course_map(course.PAGES).axes[0]
    arrows = [text for text in axes.texts if not text.get_text()]
    assert len(arrows) == sum(len(page.needs) for page in course.PAGES) and len(axes.texts) - len(arrows) == len(course.PAGES)


@pytest.fixture
def photo() -> bytes:
    """60 x 40 pixels, stored on its side: upright it is 40 x 60."""
    image, made = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(made, "JPEG", exif=exif)
    return made.getvalue()


def test_a_photograph_stands_beside_what_each_network_says(tmp_path, photo):
    network = build("small", 19, width=8, seed=0)
    own = recipe("ministreet", "source-only").override("network=small", "network_options={'width': 8}", "test_size=32x32")
    content = {"recipe": own.to_dict(), "step": 1, "segmenter": network.state_dict()}
    save_checkpoint(tmp_path / "runs" / "mine" / "best.pt", content)
    (tmp_path / "runs" / "torn").mkdir()
    (tmp_path / "runs" / "torn" / "best.pt").write_bytes(b"no checkpoint")
    networks = course.networks_here(tmp_path)
    assert list(networks) == ["source-only, as shipped", "source-only: mine"]
    figure = course.segmented(photo, networks)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert [picture.shape for picture in shown] == [(60, 40, 3)] * 3
    assert [axes.get_title("left") for axes in figure.axes] == ["photo", *networks]


def test_the_button_takes_another_photograph(monkeypatch, photo, tmp_path):
    import IPython.display
    import ipywidgets

    shown, updates = [], []
    handle = type("Handle", (), {"update": lambda self, figure: updates.append(figure)})()
    monkeypatch.setattr(IPython.display, "display", lambda what, **_: shown.append(what) or handle)
    (tmp_path / "street.jpg").write_bytes(photo)
    networks = {"flat": (build("small", 19, width=8, seed=0).eval(), recipe("ministreet", "source-only"))}
    course.upload(networks, tmp_path / "street.jpg")
    button = next(what for what in shown if isinstance(what, ipywidgets.FileUpload))
    file = {"name": "a.jpg", "type": "image/jpeg", "size": len(photo), "content": memoryview(photo)}
    button.value = (file | {"last_modified": datetime(2026, 1, 1, tzinfo=UTC)},)
    assert len(updates) == 1 and len(updates[0].axes) == 2
    button.value = ()
    assert len(updates) == 1
