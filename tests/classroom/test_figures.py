"""Figures say what they were given, save without a display, and refuse in words what they cannot draw."""

import io

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from course_lib.classroom import figures, landmarks
from course_lib.classroom.course import PAGES
from course_lib.labels import CAMVID11, CITYSCAPES19

IMAGE, LABEL = torch.rand(2, 3, 8, 16), torch.tensor([0, 13, 255, 10]).repeat(2, 8, 4)
EYE = torch.eye(2, dtype=torch.bool)
IOU = torch.linspace(0.1, 0.9, 19)
CLASS_SCORES = {"seeds": {"0": {"iou": {"road": 0.9}, "miou": 0.9}}}


def texts(figure: Figure) -> str:
    """Every word on a figure."""
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def drawn(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def every_figure() -> dict[str, Figure]:
    return {
        "show": figures.show(IMAGE, LABEL),
        "legend": figures.legend(CAMVID11),
        "course_map": figures.course_map(PAGES),
        "exercises": figures.exercises(PAGES, {"ema": "2026-01-01"}),
        "iou_bars": figures.iou_bars({"before": IOU / 2, "after": IOU}),
        "iou_dots": figures.iou_dots({"before": IOU / 2, "after": IOU}),
        "confusion": figures.confusion(torch.eye(19)),
        "loss_curves": figures.loss_curves({"segmentation": [3.0, 2.0, 1.0]}),
        "feature_map": figures.feature_map(source=torch.rand(8, 4, 8)),
        "feature_scatter": figures.feature_scatter({"source": torch.rand(9, 4)}, {"source": torch.arange(9)}),
        "similarities": figures.similarities({"s": torch.eye(4)}, pairs=[(0, 2)]),
        "clusters": figures.clusters({"before": torch.rand(9, 2)}, torch.arange(9) % 2, ("car", "tree")),
        "ablation": figures.ablation({"F": {"miou_mean": 30.0, "seeds": {"0": {"miou": 0.3}}, "published": 47.9}}),
        "class_gains": figures.class_gains({name: CLASS_SCORES | {"control": "F"} for name in ("F", "FC")}),
        "prototype_plane": figures.prototype_plane({"game": (torch.rand(9, 4), torch.arange(9))}, torch.rand(19, 4), (0, 1, 2)),
        "kept_table": figures.kept_table({"road": [0.9, 0.8]}, {"road": 0.85}),
        "kept_shares": figures.kept_shares({"one threshold": IOU}, (0, 1, 2)),
        "bias_arrows": figures.bias_arrows({"before": (torch.rand(19, 4), torch.rand(19, 4))}, (0, 2, 13)),
        "accuracy_at_density": figures.accuracy_at_density({"calibrated": ([0.1, 0.6], [0.9, 0.7])}),
        "label_history": figures.label_history({"static": [(0, 0.2, 0.95), (10, 0.2, 0.95)]}),
        "confusion_change": figures.confusion_change(torch.eye(19), torch.eye(19).roll(1, 0)),
        "corrected_and_newly_wrong": figures.corrected_and_newly_wrong(torch.ones(19), torch.ones(19), torch.full((19,), 9.0)),
        "stage_seconds": figures.stage_seconds({"proca": {"source": 30, "contrast": 60}}),
        "labels_curve": figures.labels_curve({"adapted": {0: [48.0, 49.0]}, "supervised": {10: [40.0], 20: [44.0, 46.0]}}),
        "leaderboard": figures.leaderboard([("old", 42.4, "ResNet-101"), ("new", 75.9, "Transformer")]),
        "neighbours": figures.neighbours(IMAGE[..., :8], {"before": (IMAGE[None, :, :, :, :8].expand(2, -1, -1, -1, -1), EYE)}),
    }


def test_all_figures_are_png_without_a_display_or_pyplot_and_leave_the_settings_alone():
    before = dict(matplotlib.rcParams)
    for name, figure in every_figure().items():
        file = io.BytesIO()
        figure.savefig(file)
        assert file.getvalue().startswith(b"\x89PNG"), name
        assert 10 * len(file.getvalue()) * 4 / 3 < 1_000_000, name  # a page below 1 MB has room for ten of them, in base64
    assert dict(matplotlib.rcParams) == before
    assert set(every_figure()) == set(figures.__all__) - {"STYLE", "overlay", "use_style"}


def test_show_draws_each_column_by_its_kind():
    figure = figures.show(IMAGE[0], LABEL[0], before_adaptation=LABEL[0], depth=torch.linspace(1, 9, 128).view(8, 16))
    picture, label, _, depth = drawn(figure)
    assert picture.shape == (8, 16, 3)
    assert label[0, 1].tolist() == list(CITYSCAPES19.palette[13]) and label[0, 2].tolist() == [0, 0, 0]
    assert depth.shape == (8, 16)
    for words in ("image", "label", "before adaptation", "depth (1 to 9)", "road", "car", "sky"):
        assert words in texts(figure)
    assert "bus" not in texts(figure), "the legend names the classes that occur"


def test_show_draws_a_batch_below_each_other():
    assert len(drawn(figures.show(IMAGE, LABEL))) == 4
    assert len(drawn(figures.show(IMAGE, LABEL, rows=1))) == 2


def test_a_number_map_with_infinities_is_drawn():
    depth = torch.tensor([[1.0, float("inf")], [2.0, 3.0]])
    assert "depth (1 to 3)" in texts(figures.show(depth=depth))


def test_number_maps_of_several_pictures_have_one_scale():
    figure = figures.show(sure=torch.tensor([[[0.0, 0.1]], [[0.2, 0.9]]]), other=torch.tensor([[[5.0, 6.0]], [[7.0, 8.0]]]))
    limits = [axes.images[0].get_clim() for axes in figure.axes]
    assert limits == [(0.0, 8.0)] * 4
    assert [axes.get_title("left") for axes in figure.axes] == ["sure (0 to 8)", "other (0 to 8)", "", ""]


def test_more_panels_than_fit_across_continue_below():
    panels = {f"p{k}": LABEL for k in range(5)}                            # of two pictures each
    figure = figures.show(**panels, legend=False)
    assert [axes.get_title("left") for axes in figure.axes] == ["p0", "p1", "p2", "p3", "p4", ""] * 2
    four = figures.show(**dict.fromkeys("abcd", LABEL[0]))
    assert four.axes[0].get_gridspec().get_geometry() == (2, 2)


def test_overlay_leaves_ignored_pixels_as_they_are():
    image = torch.rand(3, 8, 16)
    mixed = figures.overlay(image, LABEL[0], strength=1.0)
    assert mixed[0, 1].tolist() == list(CITYSCAPES19.palette[13])
    assert np.array_equal(mixed[0, 2], (image[:, 0, 2].numpy() * 255).round().astype(np.uint8))


def test_bars_carry_means_over_the_classes_that_occur():
    iou = IOU.clone()
    iou[3:] = float("nan")
    bars = figures.iou_bars({"before": iou, "oracle": IOU})
    assert f"before (mean {100 * iou[:3].mean():.1f})" in texts(bars)
    assert f"oracle (mean {100 * IOU.mean():.1f})" in texts(bars)
    subset = figures.iou_bars({"oracle": IOU}, classes=(0, 1))
    assert f"(mean {100 * IOU[:2].mean():.1f})" in texts(subset) and "bus" not in texts(subset)


def test_dots_of_twelve_rows_are_sorted_distinct_and_their_legend_lies_in_the_figure():
    names = [f"source-only + photometric, row {i}" for i in range(11)]
    rows = {name: (IOU + i / 100) % 1 for i, name in enumerate(names)} | {"oracle": IOU.clone()}
    rows["oracle"][4] = rows[names[0]][4] = float("nan")
    figure = figures.iou_dots(rows, width=13.0)
    figure.draw_without_rendering()  # lays it out
    inside, legend = figure.bbox, figure.legends[0].get_window_extent()
    assert inside.x0 <= legend.x0 and legend.x1 <= inside.x1 and inside.y0 <= legend.y0 and legend.y1 <= inside.y1
    (axes,) = figure.axes
    assert axes.get_window_extent().x1 <= legend.x0 and axes.get_window_extent().width > inside.width / 2
    assert all(f"{name} (mean " in texts(figure) for name in rows)
    order = [CITYSCAPES19.classes.index(label.get_text()) for label in axes.get_yticklabels()]
    assert order == [c for c in range(18, -1, -1) if c != 4] + [4], "by the last row, the best first; absent ones last"
    dots = {(line.get_color(), line.get_marker()) for line in axes.lines}
    assert len(dots) == len(axes.lines) == 12
    assert np.allclose(axes.lines[0].get_xdata()[:-1], 100 * rows[names[0]][order[:-1]])
    by_first = figures.iou_dots({"a": IOU, "b": IOU.flip(0)}, by="a")
    assert by_first.axes[0].get_yticklabels()[0].get_text() == CITYSCAPES19.classes[18]


def test_confusion_rows_are_shares_of_the_truth():
    counts = torch.zeros(19, 19)
    counts[0, 0], counts[0, 1], counts[1, 1] = 30, 10, 5  # a quarter of the road is called sidewalk
    figure = figures.confusion(counts)
    assert drawn(figure)[0].tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert "25" in texts(figure) and figure.axes[0].get_ylabel() == "truth"


def test_curves_draw_landmarks_from_values_and_from_a_log():
    log = [{"step": 10 * (i + 1), "losses": {"segmentation": 3.0 - i, "d": 0.7}} for i in range(3)]
    figure = figures.loss_curves(log, {"segmentation": landmarks.cross_entropy(19)})
    raw, smooth, landmark = figure.axes[0].lines
    assert raw.get_xdata().tolist() == [10, 20, 30] and raw.get_ydata().tolist() == [3.0, 2.0, 1.0]
    assert smooth.get_ydata().tolist() == [3.0, 2.5, 2.0]
    assert landmark.get_ydata()[0] == pytest.approx(np.log(19)) and "ln 19: knows nothing" in texts(figure)
    assert len(figure.axes) == 2
    assert figures.loss_curves({"a": [1.0, 2.0, 3.0]}, smooth=2).axes[0].lines[1].get_ydata().tolist() == [1, 1.5, 2.5]


def test_feature_map_gives_equal_features_equal_colours_in_both_domains():
    features = torch.rand(8, 4, 8)
    source, target = drawn(figures.feature_map(source=features, target=features.flip(-1)))
    assert np.allclose(source, target[:, ::-1], atol=1e-5)
    again = drawn(figures.feature_map(source=features, target=features.flip(-1)))[0]
    assert np.array_equal(source, again), "the signs of the components are fixed"


def test_feature_scatter_leaves_ignored_pixels_out_and_repeats():
    z, y = torch.rand(50, 4), torch.tensor([0, 1, 255, 2, 255]).repeat(10)
    draw = [figures.feature_scatter({"source": z}, {"source": y}, points=20, seed=1) for _ in range(2)]
    one, two = (figure.axes[0].collections[0].get_offsets() for figure in draw)
    assert len(one) == 20 and np.array_equal(one, two)
    assert len(figures.feature_scatter({"s": z}, {"s": y}).axes[0].collections[0].get_offsets()) == 30


def test_similarities_write_their_numbers_and_leave_out_what_does_not_count():
    s = torch.tensor([[torch.nan, 0.25], [-0.5, torch.nan]])
    figure = figures.similarities({"before": s, "after": s}, ("car", "traffic_light"), pairs=[(0, 1)])
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == ["0.25", "-0.50"] and "after" in texts(figure) and "traffic light" in texts(figure)
    assert figure.axes[0].patches[0].get_xy() == (0.53, -0.47), "the frame is at row 0, column 1"
    assert not figures.similarities({"s": torch.eye(13)}).axes[0].texts, "many rows have colours alone"


def test_clusters_draw_every_picture_once_in_each_panel():
    label = torch.tensor([0, 1, 1, 0, 1])
    figure = figures.clusters({"before": torch.rand(5, 2), "after": torch.rand(5, 2)}, label, ("car", "tree"))
    counts = [[len(dots.get_offsets()) for dots in axes.collections] for axes in figure.axes]
    assert counts == [[2, 3], [2, 3]] and "before" in texts(figure) and "tree" in texts(figure)


def test_neighbours_are_framed_by_right_and_wrong_and_titled_where_they_begin():
    pictures = IMAGE[None, :, :, :, :8].expand(2, -1, -1, -1, -1)
    figure = figures.neighbours(IMAGE[..., :8], {"before": (pictures, EYE), "after": (pictures[:, :1], EYE[:, :1])})
    framed = [axes.patches[0].get_edgecolor()[0] < 0.5 for axes in figure.axes if axes.patches]  # little red: green
    assert framed == [True, False, True, False, True, False]
    places = {text.get_text(): text.get_transform() for text in figure.texts}
    titled = {name: [axes.transAxes for axes in figure.axes].index(place) for name, place in places.items()}
    assert titled == {"query": 0, "before": 2, "after": 5}


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: figures.show(), "nothing to draw"),
        (lambda: figures.show(IMAGE, LABEL[:1]), "different numbers of pictures"),
        (lambda: figures.show(IMAGE * 5 - 2), "denormalise it first"),
        (lambda: figures.show(torch.rand(1, 4, 8, 16)), "wanted \\(3, H, W\\)"),
        (lambda: figures.show(label=LABEL, space="cityscape"), "cityscapes19"),
        (lambda: figures.overlay(IMAGE[0], LABEL[0, :4]), "Resize one first"),
        (lambda: figures.iou_bars({"x": IOU[:11]}), "has 19 classes"),
        (lambda: figures.iou_dots({"x": IOU[:11]}), "has 19 classes"),
        (lambda: figures.confusion(torch.eye(11)), "cityscapes19 wants \\(19, 19\\)"),
        (lambda: figures.loss_curves({}), "without a loss"),
        (lambda: figures.feature_map(), "without a map"),
        (lambda: figures.feature_map(a=torch.rand(2, 8, 4, 8)), "features\\[0\\]"),
        (lambda: figures.similarities({"s": torch.rand(2, 3)}), "wanted \\(M, M\\)"),
        (lambda: figures.clusters({"a": torch.rand(4, 3)}, torch.zeros(4), ("car",)), "wanted \\(4, 2\\)"),
        (lambda: figures.feature_scatter({"s": torch.rand(2, 3, 4)}, {"s": torch.zeros(2)}), "Flatten the maps"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


def test_a_landmark_far_above_a_curve_is_written_and_does_not_flatten_it():
    landmarks = {"near": (2.9, "ln 19"), "far": (2.9, "ln 19: knows nothing")}
    near, far = figures.loss_curves({"near": [2.0, 1.5], "far": [0.3, 0.2]}, landmarks).axes
    assert len(near.lines) == 3 and len(far.lines) == 2 and far.get_ylim()[1] < 0.5
    assert "ln 19 = 2.90: above" in texts(far.figure)
