"""Marks turn pictures as the EXIF standard says, and back."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from course_lib.data.orientation import mark_of, turned, turned_back
from tests.data.pictures import exif, upright


@pytest.mark.parametrize("shape", [(2, 3), (3, 2, 3), (1, 4, 3), (5, 5)])
@pytest.mark.parametrize("mark", range(1, 9))
def test_turned_is_what_a_viewer_shows_and_turned_back_undoes_it(mark, shape):
    stored = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    shown = turned(stored, mark)
    assert np.array_equal(shown, upright(stored, mark)) and shown.flags["C_CONTIGUOUS"]
    assert np.array_equal(turned_back(shown, mark), stored)


@pytest.mark.parametrize("mark", range(1, 9))
def test_it_is_what_pillow_does_too(mark, tmp_path):
    stored = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif(mark))
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), turned(stored, mark)) and mark_of(image) == mark
