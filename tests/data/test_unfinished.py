"""A set whose making was stopped is not opened as if it were whole."""

import json

import pytest

from course_lib.data import check, ministreet, open_dataset
from course_lib.data.ministreet import making
from course_lib.data.unfinished import JOURNALS

SIZE = (32, 64)


def stopped(layout, out, count, after, monkeypatch, split="train"):
    """A set of which `after` pictures are drawn when Ctrl-C comes."""
    draw = making.write_picture

    def interrupt(out, settings, index):
        if index == after:
            raise KeyboardInterrupt
        return draw(out, settings, index)

    monkeypatch.setattr(making, "write_picture", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ministreet.make(layout, out, count, 0, split=split, size=SIZE, workers=1, progress=False)
    monkeypatch.setattr(making, "write_picture", draw)


UNFINISHED = r"unfinished: {} of {} pictures. Repeat the command that makes it \(`uda data make ministreet --as {} ...`"


@pytest.mark.parametrize(
    "layout, pictures", [("gta5", "images"), ("synthia", "RGB"), ("cityscapes", "leftImg8bit/train/ministreet")]
)
def test_a_set_that_was_stopped_is_refused_until_it_is_whole(layout, pictures, tmp_path, monkeypatch):
    stopped(layout, tmp_path, 5, 2, monkeypatch)
    said = UNFINISHED.format(2, 5, layout)
    for spec in (f"{layout}:{tmp_path}", f"folder:{tmp_path}", f"folder:{tmp_path / pictures}"):
        with pytest.raises(ValueError, match=said):
            open_dataset(spec, labelled=False)
    with pytest.raises(ValueError, match=said):
        check(f"{layout}:{tmp_path}", progress=False)
    ministreet.make(layout, tmp_path, 5, 0, size=SIZE, workers=1, progress=False)
    assert len(open_dataset(f"{layout}:{tmp_path}")) == 5 == check(f"{layout}:{tmp_path}", progress=False).pictures


def test_a_whole_set_that_is_being_enlarged_is_unfinished(tmp_path, monkeypatch):
    ministreet.make("gta5", tmp_path, 2, 0, size=SIZE, workers=1, progress=False)
    stopped("gta5", tmp_path, 5, 3, monkeypatch)
    with pytest.raises(ValueError, match=UNFINISHED.format(3, 5, "gta5")):
        open_dataset(f"gta5:{tmp_path}")


def test_the_splits_of_cityscapes_are_finished_one_by_one(tmp_path, monkeypatch):
    ministreet.make("cityscapes", tmp_path, 2, 0, size=SIZE, workers=1, progress=False)
    stopped("cityscapes", tmp_path, 3, 1, monkeypatch, split="val")
    assert len(open_dataset(f"cityscapes:{tmp_path}", "train")) == 2
    with pytest.raises(ValueError, match=UNFINISHED.format(1, 3, "cityscapes")):
        open_dataset(f"cityscapes:{tmp_path}", "val")


def test_a_journal_of_a_whole_set_and_of_somebody_else_is_no_reason(tmp_path):
    ministreet.make("gta5", tmp_path, 2, 0, size=SIZE, workers=1, progress=False)
    arguments = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["arguments"]
    (tmp_path / JOURNALS).mkdir()
    plan = {"made_by": making.MADE_BY, "count": 2, "arguments": arguments}  # killed before it removed this
    (tmp_path / JOURNALS / "train.json").write_text(json.dumps(plan), encoding="utf-8")
    (tmp_path / JOURNALS / "diary.json").write_text('{"count": 9}', encoding="utf-8")
    assert len(open_dataset(f"gta5:{tmp_path}")) == 2
