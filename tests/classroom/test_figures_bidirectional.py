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


def test_all_panels_lie_in_the_plane_and_the_scale_of_the_first():
    alone = figures.bias_arrows({"before": (MU_S, -MU_S)}, (0, 2, 13))
    figure = figures.bias_arrows({"before": (MU_S, -MU_S), "after": (3 * MU_S, MU_S)}, (0, 2, 13))
    before, after = figure.axes
    figure.canvas.draw()
    np.testing.assert_allclose(places(before, "o"), places(alone.axes[0], "o"), atol=1e-5)
    np.testing.assert_allclose(places(after, "*"), places(before, "o"), atol=1e-5)
    np.testing.assert_allclose([before.get_xlim(), before.get_ylim()], [after.get_xlim(), after.get_ylim()])
    stars = places(after, "*"), places(after, "o")
    assert all(before.get_xlim()[0] < x < before.get_xlim()[1] for x in np.concatenate(stars)[:, 0])


def test_an_arrow_lies_over_the_marks_that_it_joins():
    axes = figures.bias_arrows({"before": (MU_S, MU_S + 0.1)}, (0, 2, 13)).axes[0]
    marks = max(line.get_zorder() for line in axes.lines)
    assert len(axes.texts) == 3 and all(arrow.get_zorder() > marks for arrow in axes.texts)


def test_prototypes_of_other_channels_share_no_plane():
    with pytest.raises(ValueError, match="channels"):
        figures.bias_arrows({"before": (MU_S, -MU_S), "after": (MU_S[:, :4], MU_S[:, :4])}, (0, 2, 13))


def test_accuracy_over_density_is_per_cent_and_a_paper_has_the_hollow_marks():
    curve = torch.tensor([0.1, 0.6]), [0.9, float("nan")]
    points, published = {"static": (0.2, 0.95), "hybrid": (0.4, 0.9)}, {"hybrid": (0.5, 0.98)}
    (axes,) = figures.accuracy_at_density({"softmax": curve, "cosine": curve}, points, published, lowest=80).axes
    line, other, static, hybrid, paper = axes.lines
    np.testing.assert_allclose(line.get_xydata()[0], [10, 90])
    assert line.get_linestyle() != other.get_linestyle() and line.get_color() != other.get_color()
    np.testing.assert_allclose([mark.get_xydata()[0] for mark in (static, hybrid, paper)], [[20, 95], [40, 90], [50, 98]])
    assert static.get_marker() != hybrid.get_marker() == paper.get_marker()
    assert hybrid.get_markerfacecolor() == "black" and paper.get_markerfacecolor() == "white"
    assert axes.get_ylim()[0] == 80
    for words in ("softmax", "cosine", "static", "hybrid", "hybrid (paper)", "density: pixels with a label, %"):
        assert words in texts(axes.figure)


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
