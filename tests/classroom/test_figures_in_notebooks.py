"""What goes wrong with figures and bars only in a running notebook."""

import base64
import warnings

import pytest
import torch
from matplotlib.figure import Figure

from course_lib.classroom import figures, progress
from course_lib.classroom.figures.style import as_png


@pytest.mark.parametrize("figure", [figures.legend(), figures.show(torch.zeros(4, 8, dtype=torch.int64))])
def test_a_notebook_can_draw_it(figure):
    pylabtools = pytest.importorskip("IPython.core.pylabtools")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be printed below the picture
        assert pylabtools.print_figure(figure, "png") is not None, "IPython draws nothing for a figure without axes"


def test_three_label_maps_are_a_batch_and_not_a_colour_picture():
    labels = torch.zeros(3, 4, 8, dtype=torch.int64)
    figure = figures.show(torch.rand(3, 3, 4, 8), labels, prediction=labels)
    assert len(figure.axes) == 9


def test_three_channels_of_bytes_are_one_colour_picture():
    assert len(figures.show(torch.zeros(3, 4, 8, dtype=torch.uint8)).axes) == 1


@pytest.mark.parametrize("width", [4.0, 9.0])
def test_the_legend_of_many_classes_stays_inside_the_figure(width):
    figure = figures.show(torch.arange(19).repeat(4, 1), width=width)
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_the_bar_takes_a_loss_that_still_has_its_graph_without_a_warning():
    loss = torch.ones((), requires_grad=True) * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in (bar := progress(range(1), "step")):
            bar.show(segmentation=loss)
    assert bar.postfix == "segmentation=2.000"


def test_a_figure_is_wide_enough_and_describes_itself():
    figure = Figure(figsize=(4, 4))
    left, right = figure.subplots(1, 2)
    left.set(title="loss", xlabel="step")
    right.plot([1, 2], label="source-only")
    right.set_xlabel("gap")
    right.set_ylabel("mIoU")
    right.legend()
    png, about = as_png(figure)
    assert int.from_bytes(base64.b64decode(png)[16:20], "big") >= 900
    assert about == {"alt": "Figure with 2 panels; loss, step; mIoU against gap; legend: source-only"}
    assert as_png(Figure()) is None
