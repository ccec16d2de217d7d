"""The scores that papers and authors published on Cityscapes val, each with where it stands: what a run is read beside.

In percent. What no reachable source gives is not here, and a table shows "-": per-class scores of BiDA, AdaptSegNet's on
SYNTHIA (one number that is remembered, without source), mIoU-13 of the papers.
"""

from dataclasses import dataclass, field

from course_lib.labels import SPACES

CLASSES_19, CLASSES_16 = (SPACES[name].classes for name in ("cityscapes19", "synthia16"))


@dataclass(frozen=True)
class PublishedScore:
    """One published result; `iou` by class name, `miou` by "19", "16", "13", both where they were given."""

    column: str  # the head of its column
    test: str  # "single", "multi-scale"; "" where it is not said
    source: str  # who says so
    miou: dict[str, float] = field(default_factory=dict)
    iou: dict[str, float] = field(default_factory=dict)


def _per_class(classes: tuple[str, ...], values: str) -> dict[str, float]:
    return dict(zip(classes, map(float, values.split()), strict=True))


PUBLISHED: dict[tuple[str, str], tuple[PublishedScore, ...]] = {  # (method, source) -> columns
    ("adaptsegnet", "gta5"): (
        PublishedScore(
            "paper", "single", "the paper's multi-level row, as issue 11 of the authors' repository lists it (mean 42.37)",
            {"19": 42.4},
            _per_class(CLASSES_19, "86.5 36.0 79.9 23.4 23.3 23.9 35.2 14.8 83.4 33.3 75.6 58.5 27.6 73.7 32.5 35.4 3.9 30.1 "
                                   "28.1"),
        ),
        PublishedScore("released", "single", "the authors' README; issue 56: 42.35 with their file", {"19": 42.4}),
    ),
    ("adaptsegnet", "synthia"): (),
    ("proca", "gta5"): (
        PublishedScore("paper", "single", "seminar slides, the paper's ablation: F, O, Ada-ST", {"19": 55.1}),
        PublishedScore("paper", "multi-scale", "seminar slides, the paper's ablation: F, O, Ada-ST, MST", {"19": 56.3}),
        PublishedScore("released", "single", "the authors' README", {"19": 55.1}),
        PublishedScore(
            "released", "multi-scale", "log in the authors' README", {"19": 56.30},
            _per_class(CLASSES_19, "91.93 48.44 87.27 41.47 31.80 41.92 47.89 36.66 86.46 42.28 84.72 68.35 43.05 88.10 39.64 "
                                   "48.78 40.57 43.56 56.88"),
        ),
    ),
    ("proca", "synthia"): (
        PublishedScore("paper", "", "the paper's introduction; its list of contributions says 52.6", {"16": 53.0}),
        PublishedScore("released", "single", "the authors' README", {"16": 52.0}),
        PublishedScore(
            "released", "multi-scale", "log in the authors' README; mIoU-13 is the mean of its 13 classes",
            {"16": 52.96, "13": 59.58},
            _per_class(CLASSES_16, "90.53 52.12 84.57 29.20 3.28 40.27 37.37 27.26 86.41 85.86 69.82 28.66 88.67 53.67 14.84 "
                                   "54.81"),
        ),
    ),
    ("bida", "gta5"): (PublishedScore("paper", "", "seminar slides, the last row of the paper's ablation", {"19": 57.1}),),
    ("bida", "synthia"): (
        PublishedScore("paper", "", "seminar slides, the last row of the paper's ablation; over 16 classes, which is not said",
                       {"16": 55.6}),
    ),
}  # fmt: skip


def published_scores(method: str, space: str) -> tuple[PublishedScore, ...]:
    """The columns of `method` for a label space: GTA5's for the 19 classes, SYNTHIA's for its 16 or 13, none for others.

    >>> [score.miou["19"] for score in published_scores("proca", "cityscapes19")]
    [55.1, 56.3, 55.1, 56.3]
    """
    source = {"cityscapes19": "gta5", "synthia16": "synthia", "synthia13": "synthia"}.get(space, "")
    return PUBLISHED.get((method, source), ())
