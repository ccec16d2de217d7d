"""The figures of notebook 06 draw what they were given."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import t

from course_lib.classroom import figures

BEFORE = torch.zeros(19, 19)
BEFORE[0, 0], BEFORE[0, 1], BEFORE[1, 1] = 60, 40, 10
AFTER = torch.zeros(19, 19)
AFTER[0, 0], AFTER[0, 1], AFTER[1, 1] = 90, 10, 10


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_the_change_of_a_confusion_is_in_points_of_the_true_class():
    figure = figures.confusion_change(BEFORE, AFTER, names=("source-only", "ours"))
    before, after, change = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    np.testing.assert_allclose(before, [[60, 40], [0, 100]])
    np.testing.assert_allclose(after, [[90, 10], [0, 100]])
    np.testing.assert_allclose(change, [[30, -30], [0, 0]])
    for words in ("+30", "-30", "ours less source-only", "points", "% of the true class", "road", "sidewalk"):
        assert words in texts(figure)
    assert "building" not in texts(figure), "classes that occur nowhere are left out"


def test_a_class_that_only_one_of_the_two_predicts_is_drawn():
    after = AFTER.clone()
    after[0, 13] = 5
    figure = figures.confusion_change(BEFORE, after)
    assert [axes.images[0].get_array().shape for axes in figure.axes if axes.images] == [(3, 3)] * 3


def test_only_changes_that_are_worth_a_number_have_one():
    after = BEFORE.clone()
    after[0, 0], after[0, 1] = 53, 47  # 7 points
    assert not figures.confusion_change(BEFORE, after).axes[2].texts
    after[0, 0], after[0, 1] = 52, 48
    assert {text.get_text() for text in figures.confusion_change(BEFORE, after).axes[2].texts} == {"-8", "+8"}


def test_corrected_pixels_are_above_the_axis_and_newly_wrong_ones_below():
    pixels = torch.zeros(19)
    pixels[[0, 13]] = torch.tensor([200.0, 10.0])
    corrected, newly_wrong = torch.zeros(19), torch.zeros(19)
    corrected[0], newly_wrong[0], newly_wrong[13] = 50, 10, 4
    axes = figures.corrected_and_newly_wrong(corrected, newly_wrong, pixels, title="ours").axes[0]
    assert [bar.get_height() for bar in axes.patches] == [25, 0, -5, -40]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["road", "car"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [20, -40])
    key = axes.figure.legends[0].legend_handles[-1]
    assert key.get_label() == "net" and key.get_marker() == axes.lines[0].get_marker(), "the key shows the tick that is drawn"


def test_the_stages_follow_each_other_and_short_ones_have_their_words_above():
    stages = {"source": 30, "prototypes": 1, "labels": 2, "contrast": 60, "test": 3}
    figure = figures.stage_seconds({"proca": stages, "adaptsegnet": {"adapt": 50}})
    axes = figure.axes[0]
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert bars == [(0, 30), (30, 1), (31, 2), (33, 60), (93, 3), (0, 50)]
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert places.keys() == {"source\n30 s", "prototypes 1 s, labels 2 s", "contrast\n60 s", "test 3 s", "adapt\n50 s"}
    assert places["prototypes 1 s, labels 2 s"] == (30, pytest.approx(-0.33)) and places["test 3 s"][0] == 93


def test_the_leaderboard_has_the_best_above_and_a_colour_for_each_group():
    figure = figures.leaderboard([("old", 42.4, "ResNet-101"), ("new", 75.9, "Transformer"), ("middle", 57.1, "ResNet-101")])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["new", "middle", "old"] and axes.yaxis_inverted()
    dots = [line for line in axes.lines if len(line.get_xdata())]
    assert [dot.get_xdata()[0] for dot in dots] == [75.9, 57.1, 42.4]
    assert dots[1].get_color() == dots[2].get_color() != dots[0].get_color()


def row(mious, published=None, control=None):
    seeds = {str(k): {"miou": miou / 100} for k, miou in enumerate(mious)}
    return {"miou_mean": sum(mious) / len(mious), "seeds": seeds, "published": published, "control": control}


def test_an_ablation_shows_gains_over_each_rows_control_with_their_interval():
    figure = figures.ablation({
        "source-only": row([40, 41, 42], 37.3), "2 x compute": row([43, 42, 41], control="source-only"),
        "F": row([45, 46, 44], 47.9, "2 x compute"), "oracle": row([60, 61, 62]),
    })  # fmt: skip
    axes = figure.axes[0]
    means = [line.get_xdata()[0] for line in axes.lines if line.get_markersize() == 7 and len(line.get_xdata())]
    assert means == pytest.approx([0, 1, 3, 20])
    (half,) = {round(line.get_xdata()[1] - 3, 6) for line in axes.lines if list(line.get_ydata()) == [2, 2]}
    assert half == pytest.approx(t.ppf(0.975, 2) * 1 / 3**0.5)  # the gains are 2, 4 and 3
    crosses = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert crosses == pytest.approx([10.6])


def test_rows_of_an_ablation_that_are_not_drawn_are_controls_all_the_same():
    rows = {"a": row([40, 41, 42]), "b": row([43, 42, 41]), "b + F": row([45, 46, 44], control="b")}
    (axes,) = figures.ablation(rows, shown=["b + F"]).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["b + F"]
    means = [line.get_xdata()[0] for line in axes.lines if line.get_markersize() == 7 and len(line.get_xdata())]
    assert means == pytest.approx([3])


def by_class(road, train, control=None):
    """A row with the seeds 0, 1, ...; a class without an IoU is None."""
    ious = ({"road": a, "train": b} for a, b in zip(road, train))
    seeds = {str(k): {"iou": iou, "miou": (iou["road"] + (iou["train"] or 0)) / 2} for k, iou in enumerate(ious)}
    return {"seeds": seeds, "control": control}


def test_class_gains_are_the_means_of_the_paired_differences_and_bold_where_their_interval_leaves_out_0():
    rows = {
        "base": by_class([0.50, 0.60, 0.70], [0.20, 0.30, 0.40]),
        "+ a": by_class([0.52, 0.63, 0.71], [0.35, 0.20, 0.45], "base"),  # road: 2, 3, 1; train: 15, -10, 5
        "+ b": by_class([0.40, 0.50, 0.60], [None, None, None], "base"),  # road: -10 three times
    }
    figure = figures.class_gains(rows)
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.images[0].get_array().filled(np.nan)[0], [2, 10 / 3, 8 / 3])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["+ a", "+ b"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["road", "train", "mIoU"]
    weights = {(text.get_text(), text.get_position()): text.get_fontweight() for text in axes.texts}
    half = t.ppf(0.975, 2) / 3**0.5  # of 2, 3, 1: 2.48, more than their mean
    assert half > 2 and weights["+2.0", (0, 0)] == "normal" and weights["+3.3", (1, 0)] == "normal"
    assert weights["-10.0", (0, 1)] == "bold", "three equal differences"
    assert not any(place == (1, 1) for _, place in weights), "a class without an IoU has no number"
    assert "points of IoU over the row's control; bold: the 95 % interval leaves out 0" in figures.style.description(figure)


def test_class_gains_of_a_row_without_a_control_are_refused_in_words():
    rows = {"base": by_class([0.5], [0.2]), "+ a": by_class([0.6], [0.2], "base")}
    assert [text.get_text() for text in figures.class_gains(rows).axes[0].get_yticklabels()] == ["+ a"]
    with pytest.raises(ValueError, match="'base' has no control; a gain needs one. Give shown= the rows that have a control."):
        figures.class_gains(rows, shown=["base"])


def test_the_papers_gains_begin_at_our_mean_of_its_first_row():
    """Its base is not source-only: a gain of 2 over its base is drawn 2 from the mean of ours."""
    rows = {"source-only": row([40, 41, 42]), "base": row([43, 43, 43], 50.0), "FC": row([45, 46, 44], 52.0)}
    figure = figures.ablation(rows)
    (axes,) = figure.axes
    crosses = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert crosses == [pytest.approx((2 + 2, 2))]
    assert "over 'base'" in texts(figure)


def test_the_means_of_an_ablation_stand_in_a_column_where_no_dot_can_lie():
    figure = figures.ablation({"base": row([48.5, 44.7], 49.5)})
    figure.canvas.draw()
    axes = figure.axes[0]
    number = next(text for text in axes.texts if text.get_text() == "46.6")
    assert number.get_window_extent().x0 >= axes.get_window_extent().x1
    assert number.get_window_extent().x1 <= figure.bbox.x1, "and inside the picture"
    assert "mIoU" in texts(figure)


def test_a_matrix_of_another_space_is_refused_in_words():
    with pytest.raises(ValueError, match="cityscapes19 wants \\(19, 19\\)"):
        figures.confusion_change(torch.eye(11), torch.eye(11))


EVERYTHING = torch.rand(19, 19, generator=torch.Generator().manual_seed(0))
DRAWN = {
    "change": figures.confusion_change(EVERYTHING, EVERYTHING.flip(0)),
    "corrected": figures.corrected_and_newly_wrong(EVERYTHING[0], EVERYTHING[1], EVERYTHING[0] + 1),
    "seconds": figures.stage_seconds({"one": {"a": 1.0}}),
    "board": figures.leaderboard([("one", 50.0, "a group")]),
}


@pytest.mark.parametrize("name", DRAWN)
def test_it_can_be_saved(name, tmp_path):
    DRAWN[name].savefig(tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_the_curve_of_labels_has_means_reaches_and_hours():
    figure = figures.labels_curve({"adapted": {0: [48.0, 50.0]}, "supervised": {10: [40.0], 20: [44.0, 47.0, 46.0]}}, hours=1.5)
    axes = figure.axes[0]
    lines = {container.get_label(): container for container in axes.containers}
    assert list(lines) == ["adapted", "supervised"] == [text.get_text() for text in figure.legends[0].get_texts()]
    means = {name: list(container.lines[0].get_ydata()) for name, container in lines.items()}
    assert means == {"adapted": [49.0], "supervised": [40.0, pytest.approx(137 / 3)]}
    bars = [segment[:, 1].tolist() for segment in lines["supervised"].lines[2][0].get_segments()]
    assert bars == [[40.0, 40.0], [pytest.approx(44.0), pytest.approx(47.0)]]
    assert [round(x) for x in (*lines["adapted"].lines[0].get_xdata(), *lines["supervised"].lines[0].get_xdata())] == [0, 1, 2]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "10", "20"]
    assert [text.get_text() for text in axes.child_axes[0].get_xticklabels()] == ["0 h", "15 h", "30 h"]


def test_each_of_ten_curves_of_labels_has_its_own_look():
    curves = {f"row {k}": {0: [40.0 + k], 20: [45.0 + k]} for k in range(11)}
    figure = figures.labels_curve(dict(list(curves.items())[:9]), bold=("row 0", "row 4"))
    lines = [container.lines[0] for container in figure.axes[0].containers]
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == len(lines) == 9
    thick = {line.get_linewidth() for line in (lines[0], lines[4])}
    others = [line for k, line in enumerate(lines) if k not in (0, 4)]
    assert min(thick) > 2 * max(line.get_linewidth() for line in others)
    assert min(lines[0].get_zorder(), lines[4].get_zorder()) > max(line.get_zorder() for line in others)
    figures.labels_curve(dict(list(curves.items())[:10]))
    with pytest.raises(ValueError, match="labels_curve got 11 rows; it wants 10 at most"):
        figures.labels_curve(curves)
