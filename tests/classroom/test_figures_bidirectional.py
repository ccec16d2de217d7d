"""The figures of notebook 05 draw what they were given."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from course_lib.classroom import figures

MU_S = torch.randn(19, 8, generator=torch.Generator().manual_seed(0))


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def places(axes, marker: str) -> np.ndarray:
    return np.array([line.get_xydata()[0] for line in axes.lines if line.get_marker() == marker])


def test_without_a_bias_the_star_lies_on_the_dot():
    shift = torch.zeros(19, 8)
    shift[13] = 3.0
    figure = figures.bias_arrows({"before": (MU_S, MU_S + shift)}, (0, 2, 13))
    dots, stars = places(figure.axes[0], "o"), places(figure.axes[0], "*")
    assert len(dots) == len(stars) == 3
    np.testing.assert_allclose(dots[:2], stars[:2], atol=1e-5)
    assert np.linalg.norm(dots[2] - stars[2]) > 1
    for words in ("before", "source", "target", "road", "building", "car"):
        assert words in texts(figure)


def test_every_panel_has_a_plane_of_its_own():
    figure = figures.bias_arrows({"before": (MU_S, -MU_S), "after": (MU_S[:, :4], MU_S[:, :4])}, (0, 2, 13))
    assert [len(places(axes, "*")) for axes in figure.axes] == [3, 3]


def test_the_curves_are_per_cent_and_marked_at_the_nearest_threshold():
    curve = [0.5, 0.8, 0.9], [0.6, 0.3, 0.1], [0.7, 0.9, float("nan")]
    figure = figures.label_curves({"calibrated": curve}, threshold=0.79)
    density, accuracy, both = figure.axes
    np.testing.assert_allclose(density.lines[0].get_ydata(), [60, 30, 10])
    np.testing.assert_allclose(places(accuracy, "o"), [[0.8, 90]])
    np.testing.assert_allclose(places(both, "o"), [[30, 90]])
    for words in ("calibrated", "density, %", "accuracy at a density, %"):
        assert words in texts(figure)
    assert not len(places(figures.label_curves({"calibrated": curve}).axes[0], "o"))


def test_the_history_has_a_panel_each_for_density_and_accuracy():
    figure = figures.label_history({"static": [(0, 0.2, 0.95), (10, 0.2, 0.95)], "hybrid": [(0, 0.3, 0.9), (10, 0.4, 0.92)]})
    hybrid = [axes.lines[1].get_xydata() for axes in figure.axes]
    np.testing.assert_allclose(hybrid, [[(0, 30), (10, 40)], [(0, 90), (10, 92)]])
    assert "hybrid" in texts(figure)


ALL_CLASSES, ONE_STEP = figures.bias_arrows({"one": (MU_S, -MU_S)}, range(19)), figures.label_history({"a": [(0, 1, 1)]})


@pytest.mark.parametrize("figure", [ALL_CLASSES, ONE_STEP])
def test_it_can_be_saved(figure, tmp_path):
    figure.savefig(tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000
