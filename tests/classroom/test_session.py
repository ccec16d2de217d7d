"""Start, stamp, progress and sliders."""

import math
import random

import numpy as np
import pytest
import torch

from course_lib import classroom
from course_lib.classroom import landmarks, widgets
from course_lib.classroom.start import peak_megabytes
from course_lib.losses import nt_xent


def test_start_says_what_runs(capsys):
    classroom.start(seed=3, device="cpu")
    version = torch.__version__.split("+")[0]
    assert capsys.readouterr().out == f"Fast run on cpu, seed 3, torch {version}\n"


@pytest.mark.parametrize(("value", "expected"), [(None, 2), ("", 2), ("0", 2), ("1", 30)])
def test_the_environment_asks_for_the_full_run(monkeypatch, value, expected):
    monkeypatch.delenv("COURSE_FULL", raising=False)
    if value is not None:
        monkeypatch.setenv("COURSE_FULL", value)
    assert classroom.start(device="cpu").pick(fast=2, full=30) == expected
    assert classroom.start(device="cpu", full=True).pick(fast=2, full=30) == 30


def test_another_value_of_the_environment_is_an_error(monkeypatch):
    monkeypatch.setenv("COURSE_FULL", "ja")
    with pytest.raises(ValueError, match="COURSE_FULL is 'ja'; wanted 1 .yes. or 0 .no."):
        classroom.start(device="cpu")


def test_start_seeds_everything():
    def draws():
        classroom.start(seed=5, device="cpu")
        return random.random(), np.random.rand(), torch.rand(2).tolist()

    assert draws() == draws()


def test_a_generator_repeats_and_streams_differ():
    session = classroom.start(seed=5, device="cpu")
    one, again, other = (torch.rand(3, generator=session.generator(stream)) for stream in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_the_stamp_names_versions_seconds_and_memory(capsys):
    classroom.start(seed=0, device="cpu").stamp()
    stamp = capsys.readouterr().out
    for word in ("Python 3.", "torch 2.", "torchvision 0.", "course_lib ", "cpu, seed 0", " s, peak ", " MB"):
        assert word in stamp
    assert 50 < peak_megabytes() < 100_000


@pytest.mark.parametrize(("answer", "solved", "words"), [
    (lambda matrix: ..., 0, "○ iou: not attempted yet. "),
    (lambda matrix: matrix.diagonal() / matrix.sum(1), 0, "✗ iou: case 2 of 4"),
], ids=["stub", "wrong"])  # fmt: skip
def test_a_page_uses_the_librarys_function_until_the_readers_is_right(answer, solved, words, capsys):
    session = classroom.start(device="cpu")
    iou = session.use(classroom.checks.iou, answer)
    assert iou(torch.eye(2)).tolist() == [1.0, 1.0]
    iou(torch.eye(3))
    session.stamp()
    said = capsys.readouterr().out
    assert words in said and "This page uses the library's iou." in said
    assert f"exercises solved: {solved} of 1; calls on this page: iou 2\n" in said


def test_a_page_uses_the_readers_function_when_it_is_right(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))  # where it is noted
    session, asked = classroom.start(device="cpu"), []

    def my_iou(matrix):
        """Mine."""
        asked.append(len(matrix))
        return matrix.diagonal() / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal())

    iou = session.use(classroom.checks.iou, my_iou)
    del asked[:]
    iou(torch.eye(2))
    session.stamp()
    said = capsys.readouterr().out
    assert asked == [2] and iou.__doc__ == "Mine." and "This page uses your my_iou." in said
    assert "exercises solved: 1 of 1; calls on this page: iou 1\n" in said


def test_a_bar_takes_tensors_and_redraws_seldom(capsys):
    for step in (bar := classroom.progress(range(2_000), "adapt")):
        bar.show(segmentation=torch.tensor(step / 1000.0), discriminator=0.7)
    assert bar.postfix == "segmentation=1.999, discriminator=0.700"
    assert capsys.readouterr().err.count("\r") < 20


def test_landmarks_are_the_losses_of_knowing_nothing():
    logits, score = torch.zeros(1, 19), torch.zeros(4)
    assert landmarks.cross_entropy(19)[0] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, torch.tensor([3])).item()
    )
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(score, torch.ones(4)).item()
    assert landmarks.discriminator()[0] == landmarks.adversarial()[0] == pytest.approx(wanted)
    assert landmarks.info_nce(127)[0] == math.log(127) and "127" in landmarks.info_nce(127)[1]
    alike, solved = torch.ones(64, 2), torch.eye(64)
    assert landmarks.nt_xent(64)[0] == pytest.approx(nt_xent(alike, alike, 0.5).item())
    assert landmarks.nt_xent_solved(64, 0.5)[0] == pytest.approx(nt_xent(solved, solved, 0.5).item())


def test_a_slider_calls_the_plain_function_once_without_a_front_end(capsys):
    seen = []
    classroom.slider(lambda gap=0.25: seen.append(gap) or "the picture", gap=(0.0, 1.0, 0.25))
    assert seen == [0.25]
    assert "the picture" in capsys.readouterr().out


def test_a_slider_is_whole_when_its_numbers_are():
    knobs = widgets.build({"steps": 3, "gap": 0.5}, {"steps": (1, 9, 1), "gap": (0.0, 1.0, 0.25)})
    assert type(knobs["steps"]).__name__ == "IntSlider" and type(knobs["gap"]).__name__ == "FloatSlider"
    assert knobs["gap"].value == 0.5 and not knobs["gap"].continuous_update


def plain(gap, width=3.0):
    return gap


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ({"gab": (0.0, 1.0, 0.5)}, "takes gap, width"),
        ({"gap": (1.0, 0.0, 0.5)}, "low < high"),
        ({"gap": (0.0, 1.0)}, "wants \\(low, high, step\\)"),
        ({"width": (0.0, 1.0, 0.5)}, "leaves out the function's default 3.0"),
    ],
)
def test_a_slider_that_cannot_work_is_refused_in_words(ranges, words):
    with pytest.raises(ValueError, match=words):
        classroom.slider(plain, **ranges)
