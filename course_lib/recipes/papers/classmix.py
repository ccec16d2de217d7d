"""ClassMix (Olsson et al., WACV 2021): few labels in one domain, with a mean teacher.

Sources: [code] the authors' released behaviour, [paper] the paper.
"""

from course_lib.recipes.paper import Paper, PublishedScore, Row, labels_alone
from course_lib.recipes.papers import dacs

PUBLISHED = {
    "adapt": dict(
        # [code] starts from COCO, which cannot be shipped: "network_options={'imagenet': 'resnet101COCO-41f33a49.pth'}"
        network_options={"form": "adaptsegnet_single", "imagenet": True},
        crop=(512, 512),  # [code] of pictures at 1024x512
        batch_size=2,  # [code] 2 labelled ones and 2 others
        steps=40_000,  # [code]
        schedule_steps=40_000,  # [code]
    ),
}
SMALL = {"adapt": dacs.SMALL["adapt"]}  # chosen for DACS
PAIRS = dacs.PAIRS | {
    # the steps of the start and of the training: of a study with 20 labels on development seeds, which pasted labelled pictures
    "ministreet_few_labels": {"adapt": dict(network_options=dacs.FREE, mix_from="labelled")},
    "camvid_few_labels": {"adapt": dict(network_options=dacs.FREE | {"norm": "frozen"}, steps=300)},
}


def rows(source: str, scale: str, start: tuple[str, ...], same: tuple[str, ...]) -> tuple[Row, ...]:
    """Labelled pictures alone; no mixing; labelled pixels pasted, as in DACS; one weight as published; class by class."""
    return (
        labels_alone(same, "the labelled pictures alone"),
        Row("without mixing", "classmix", ("unmixed=1",), explanation="unlabelled pictures alone, strongly coloured"),
        Row("labelled pasted", "classmix", ("mix_from=labelled",), explanation="labelled pixels on unlabelled pictures"),
        Row("one weight", "classmix", ("weighting=batch",), explanation="as published: the share of the batch's sure pixels"),
        Row("class-wise", "classmix", ("weighting=class",), explanation="a moving threshold for each class"),
    )  # fmt: skip


SCORES = {
    "Cityscapes": (PublishedScore("20 labels", "single", "the README of ReCo's authors, one checkpoint", {"19": 45.13}),),
}

PAPER = Paper(
    name="classmix",
    reference="Olsson et al., WACV 2021",
    summary="unlabelled pictures mixed with each other, with a mean teacher's labels",
    stages={"adapt": "classmix"},
    published=PUBLISHED,
    small=SMALL,
    pairs=PAIRS,
    rows=rows,
    scores=SCORES,
    compared=True,
    few_labels=True,
)
