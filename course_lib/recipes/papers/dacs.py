"""DACS (Tranheden et al., WACV 2021): class mixing with a mean teacher, in one training.

Sources: [code] the authors' released behaviour, [paper] the paper, [readme] the authors' page.
"""

from course_lib.recipes.paper import Paper, PublishedScore, Row, labels_alone

PUBLISHED = {
    "adapt": dict(
        # [code] two of four ASPP branches are summed, as in AdaptSegNet's release: "network_options={'aspp_branches': 2}".
        # [code] starts from COCO, which cannot be shipped: "network_options={'imagenet': 'resnet101COCO-41f33a49.pth'}"
        network_options={"form": "adaptsegnet_single", "imagenet": True},
        crop=(512, 512),  # [code] of pictures at 1280x720 and 1024x512
        batch_size=2,  # [code] 2 of each domain
        steps=250_000,  # [code]
        schedule_steps=250_000,  # [code]
    ),
}
# chosen on development seeds: benchmarks/results/mean_teacher_design.md
SMALL = {
    "adapt": dict(
        # the augmentation that every row of the table gets
        photometric="strong",
        start_photometric="strong",
        mixed_photometric="strong",
        weighting="class",  # one weight for all classes loses the rare ones
    ),
}
FREE = {"frozen_blocks": 0}  # the teacher needs weights that learn
PAIRS = {
    "ministreet": {"adapt": dict(network_options=FREE, start_steps=700)},
    "ministreet_camvid": {
        "adapt": dict(network_options=FREE | {"norm": "frozen"}, start_steps=500, steps=300),
    },
}


def rows(source: str, scale: str, start: tuple[str, ...], same: tuple[str, ...]) -> tuple[Row, ...]:
    """Source-only; target pictures alone, boxes, one threshold for all classes, one weight as published, class by class."""
    return (
        labels_alone(same),
        Row("without mixing", "dacs", ("unmixed=1",), explanation="target pictures alone, strongly coloured"),
        Row("CutMix", "dacs", ("mix=box",), explanation="boxes in place of classes"),
        Row("one threshold", "dacs", ("weighting=threshold", "threshold=0.9"), explanation="labels above 0.9 of all classes"),
        Row("one weight", "dacs", ("weighting=batch",), explanation="as published: the share of the batch's confident pixels"),
        Row("class-wise", "dacs", ("weighting=class",), explanation="a moving threshold for each class"),
    )  # fmt: skip


SCORES = {
    "GTA5": (
        PublishedScore("paper", "single", "the paper's table", {"19": 52.14}),
        PublishedScore("released", "single", "the authors' README, at the end of training; its best is 53.66", {"19": 53.04}),
    ),
    "SYNTHIA": (PublishedScore("paper", "single", "the paper's table", {"16": 48.34, "13": 54.81}),),
}

PAPER = Paper(
    name="dacs",
    reference="Tranheden et al., WACV 2021",
    summary="class mixing with a mean teacher's labels",
    stages={"adapt": "dacs"},
    published=PUBLISHED,
    small=SMALL,
    pairs=PAIRS,
    rows=rows,
    scores=SCORES,
    released_test_size=(512, 1024),
)
