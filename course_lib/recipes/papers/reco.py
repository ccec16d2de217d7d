"""ReCo (Liu et al., ICLR 2022): few labels in one domain, DeepLabV3+ on ResNet-101.

Sources: [code] the authors' released behaviour, [readme] the authors' page. Other than released: the rate goes down with every
step, not every epoch, and to 0, not to 1e-6 (the last 7 steps); labelled pictures are not blurred; which pictures are labelled
is the split's matter, where the release takes pictures with at least 12 classes.
"""

from course_lib.recipes.paper import Paper, PublishedScore, Row, labels_alone
from course_lib.recipes.papers import classmix

PUBLISHED = {
    "adapt": dict(
        network="deeplab_v3plus",
        network_options={"form": "reco", "imagenet": True},  # [code] ResNet-101, stride 16, ASPP 6/12/18 and image pooling
        source_size=(512, 1024),  # [code]
        target_size=(512, 1024),  # [code]
        test_size=(512, 1024),  # [code]
        crop=(512, 512),  # [code]
        flip=True,  # [code]
        photometric="jitter",  # [code] p = .8, .75 to 1.25, hue +-.25, on labelled pictures, too
        batch_size=2,  # [code] 2 labelled ones and 2 others
        optimiser="sgd",  # [code]
        lr=2.5e-3,  # [code]
        head_factor=1.0,  # [code] one rate for all
        momentum=0.9,  # [code]
        nesterov=True,  # [code]
        weight_decay=5e-4,  # [code]
        power=0.9,  # [code]
        steps=40_000,  # [code] 200 epochs of 200 steps
        schedule_steps=40_000,  # [code]
        save_every=200,  # [code] an epoch
        select="last",  # the release reports the best of all epochs on validation labels: select=target-labels
        mixed_over="positive",  # [code]
    ),
}
# ours, not compared with others: a small picture has a hundredth of the published cells
TERMS = {
    "terms.region_contrast.queries": 64,
    "terms.region_contrast.negatives": 64,
    "terms.region_contrast.hidden": 64,
    "terms.region_contrast.out": 64,
}
SMALL = {
    "adapt": classmix.SMALL["adapt"]
    | TERMS
    # ours, as in the other methods: the teacher is a mean of the last 100 students, of a few hundred
    | {"scored": "segmenter"}
}


def rows(source: str, scale: str, start: tuple[str, ...], same: tuple[str, ...]) -> tuple[Row, ...]:
    """Labelled pictures alone; ClassMix; region contrast; and the weight of the paper where the row above has another."""
    found = (
        labels_alone(same, "the labelled pictures alone"),
        Row("without contrast", "reco", ("terms=none",), explanation="ClassMix, the base"),
        Row("+ region contrast", "reco", explanation="the whole method"),
    )
    one = Row("one weight", "reco", ("weighting=picture", "threshold=0.97"), explanation="as published: of each mixed picture")
    return found if scale == "published" else (*found, one)


SCORES = {
    "Cityscapes": (
        PublishedScore("paper, 20 labels", "single", "the paper's table, as it is quoted", {"19": 49.86}),
        PublishedScore("released, 20 labels", "single", "the authors' README, one checkpoint", {"19": 50.14}),
    ),
}

PAPER = Paper(
    name="reco",
    reference="Liu et al., ICLR 2022",
    summary="ClassMix, and unsure cells contrasted with class means",
    stages={"adapt": "reco"},
    published=PUBLISHED,
    small=SMALL,
    pairs=classmix.PAIRS,
    rows=rows,
    scores=SCORES,
    released_test_size=(512, 1024),
    few_labels=True,
)
