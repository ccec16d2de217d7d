"""SemiSegContrast (Alonso et al., ICCV 2021): few labels, two strong views of unlabelled pictures, a memory of good features.

Sources: [code] the authors' released behaviour. Other than released: what the files of the method and of its term name; every
picture is scaled (there half of the labelled ones and four in five views); labelled pictures keep their colours (there one in
five is jittered by .125); pictures are normalised like those of other papers on this network; the last network is scored (there
the best on the validation labels, which is also taken up again where the score stands still, and statistics measured again
where that scores higher); between domains the memory has features of the source (there of the target's labelled pictures).

The start is ImageNet's; the published 59.4 with 100 labels start from COCO, which cannot be shipped:
--set "network_options={'imagenet': 'resnet101COCO-41f33a49.pth'}". `terms.memory_contrast.labelled` is the
number of labels; --labels 100 sets it.
"""

from course_lib.recipes.paper import Paper, PublishedScore, Row, labels_alone
from course_lib.recipes.papers import classmix

PUBLISHED = {
    "adapt": dict(
        # [code] two of four ASPP branches are summed, as in AdaptSegNet's release: "network_options={'aspp_branches': 2}".
        # [code] scale and shift of normalisation are fixed, its statistics are the batch's
        # DeepLabV3+ with ResNet-50 (docs/commands.md): batch_size=7, lr=4e-4, crops of pictures at 2048x1024 [code]
        network_options={"form": "adaptsegnet_single", "imagenet": True},
        source_size=(512, 1024),  # [code]
        target_size=(512, 1024),  # [code]
        test_size=(512, 1024),  # [code]
        scale=(0.75, 1.75),  # [code]
        crop=(512, 512),  # [code]
        flip=True,  # [code]
        batch_size=5,  # [code] labelled ones; others: 2, twice
        lr=2e-4,  # [code]
        head_factor=1.0,  # [code]
        weight_decay=5e-4,  # [code]
        steps=150_000,  # [code]
        schedule_steps=150_000,  # [code]
        power=0.9,  # [code]
        save_every=10_000,  # [code]
        select="last",  # ours
    ),
}
# ours, not compared with others: the augmentation of the other rows; memory, ramp and weights from a step of 300 on that is
# later than in the published schedule, so that the teacher is right somewhere
SMALL = {
    "adapt": classmix.SMALL["adapt"] | {
        "weighting": "power",  # as published
        "alpha": 0.99,  # of some hundred steps
        "mix_after": 20,
        "ramp_steps": 20,
        "balance_from": 20,
        "balance_window": 100,
        "mix_labelled": 0.2,
        "terms.memory_contrast.first_step": 10,
        "terms.memory_contrast.loss_from": 20,
        "terms.memory_contrast.length": 64,
        "terms.memory_contrast.labelled": 20,
        "terms.memory_contrast.least_confidence": 0.9,
        "terms.memory_contrast.memory_hidden": 64,
        "terms.memory_contrast.memory_out": 64,
        "terms.memory_contrast.selector_hidden": 64,
    },
}  # fmt: skip
BETWEEN = {  # of the script for a few labels of the target beside a source
    "alpha_warm": 1.0,  # [code]
    "mix_labelled": 0.25,  # [code]
    "terms.memory_contrast.weight": 0.2,  # [code]
    "terms.memory_contrast.labelled": 100,  # [code] 1/30
}


def of_pair(pair: str) -> dict:
    """ClassMix's constants of a small pair, but for the pictures that are pasted: those of this method are unlabelled."""
    return {key: value for key, value in classmix.PAIRS[pair]["adapt"].items() if key != "mix_from"}


PAIRS = {
    "gta5_cityscapes": {"adapt": BETWEEN},
    "synthia_cityscapes": {"adapt": BETWEEN},
    "cityscapes_few_labels": {"adapt": {"terms.memory_contrast.labelled": 372}},  # [code] 1/8
    "ministreet": {"adapt": of_pair("ministreet") | {"mix_from": "labelled"}},
    "ministreet_camvid": {"adapt": of_pair("ministreet_camvid") | {"mix_from": "labelled"}},
    "ministreet_few_labels": {"adapt": of_pair("ministreet_few_labels")},
    "camvid_few_labels": {"adapt": of_pair("camvid_few_labels") | {"terms.memory_contrast.labelled": 10}},
}


def rows(source: str, scale: str, start: tuple[str, ...], same: tuple[str, ...]) -> tuple[Row, ...]:
    """Labelled pictures alone; the method without its memory, with it, and with it as released. ClassMix is in every table of
    few labels."""
    key = "terms.memory_contrast"
    return (
        labels_alone(same, "the labelled pictures alone"),
        Row("without memory", "semiseg", ("terms=none",), explanation="two views, class weights, confidence to the power of 6"),
        Row("with memory", "semiseg", explanation="the whole method"),
        Row("memory as released", "semiseg", (f"{key}.kept=lowest", f"{key}.memory_weights=released"),
            explanation="the lowest scores are kept, and all of the memory counts alike"),
    )  # fmt: skip


SCORES = {
    "Cityscapes": (
        PublishedScore("paper, 1/30", "single", "a leaderboard, from COCO", {"19": 59.4}),
        PublishedScore("paper, 1/8", "single", "a leaderboard, from COCO", {"19": 64.4}),
        PublishedScore("paper, 1/4", "single", "a leaderboard, from COCO", {"19": 65.9}),
        PublishedScore("paper, 1/30, DeepLabV3+", "single", "a leaderboard", {"19": 64.9}),
    ),
}

PAPER = Paper(
    name="semiseg",
    reference="Alonso et al., ICCV 2021",
    summary="two strong views of unlabelled pictures, and cells near to a memory of good features",
    stages={"adapt": "semiseg"},
    published=PUBLISHED,
    small=SMALL,
    pairs=PAIRS,
    rows=rows,
    scores=SCORES,
    released_test_size=(512, 1024),
    few_labels=True,
)
