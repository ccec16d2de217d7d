"""The figures of notebook 04 draw what they were given."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from course_lib.classroom import figures
from course_lib.classroom.figures.prototypes import DROPPED, KEPT

PROTOTYPES = torch.randn(19, 8, generator=torch.Generator().manual_seed(0))


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_a_pixel_on_its_prototype_is_drawn_there_whatever_their_lengths():
    figure = figures.prototype_plane({"game": (3 * PROTOTYPES[[0, 2]], torch.tensor([0, 2]))}, PROTOTYPES, (0, 2, 13))
    dot, star, *_ = [collection.get_offsets() for collection in figure.axes[0].collections]
    np.testing.assert_allclose(dot, star, atol=1e-5)
    for words in ("game", "prototype", "road", "building", "car"):
        assert words in texts(figure)


def test_panels_share_the_plane_and_may_have_prototypes_of_their_own():
    one = (PROTOTYPES[[0]], torch.tensor([0]))
    figure = figures.prototype_plane({"before": one, "after": (*one, -PROTOTYPES)}, PROTOTYPES, (0, 2, 13))
    before, after = ([collection.get_offsets() for collection in axes.collections] for axes in figure.axes)
    np.testing.assert_allclose(before[0], after[0], atol=1e-5)
    assert not np.allclose(before[1], after[1])


def test_at_most_so_many_pixels_of_a_class_and_none_of_others():
    features, labels = PROTOTYPES[:1].repeat(50, 1), torch.zeros(50)
    figure = figures.prototype_plane({"game": (features, labels)}, PROTOTYPES, (0, 2, 13), points=20)
    assert [len(collection.get_offsets()) for collection in figure.axes[0].collections] == [20, 1, 0, 1, 0, 1]
    with pytest.raises(ValueError, match="50 features and 3 labels"):
        figures.prototype_plane({"game": (features, torch.zeros(3))}, PROTOTYPES, (0, 2, 13))


def test_the_table_is_green_from_the_threshold_on():
    figure = figures.kept_table({"road": torch.tensor([0.8, 0.95, 0.9])}, {"road": 0.9}, title="cap 0.9")
    colours = [matplotlib.colors.to_hex(field.get_facecolor()) for field in figure.axes[0].patches]
    assert colours == [KEPT, KEPT, DROPPED]
    for words in ("0.95 0.90 0.80", "from 0.90", "road", "cap 0.9"):
        assert words in texts(figure)


def test_the_shares_are_per_cent_and_nobody_is_nothing():
    figure = figures.kept_shares({"one": [0.5, float("nan")], "each its own": [1.0, 0.25]}, (0, 1))
    assert [bar.get_height() for bar in figure.axes[0].patches] == [50, 0, 100, 25]
    assert "each its own" in texts(figure) and "sidewalk" in texts(figure)
