"""HRDA (Hoyer et al., ECCV 2022): DAFormer's constants at full resolution.

Sources: [code] the authors' released behaviour, [readme] the authors' page. The start as for DAFormer.
"""

from course_lib.recipes.paper import Paper, PublishedScore, Row, labels_alone
from course_lib.recipes.papers import daformer

PUBLISHED = {
    "adapt": daformer.PUBLISHED["adapt"]
    | dict(
        network="hrda",
        # [code] lambda_d; test: windows of 1024 x 1024, 512 apart, the mean of their logits
        network_options={
            "of": "mit",
            "size": "b5",
            "head": "daformer",
            "imagenet": "mit_b5.pth",
            "detail_weight": 0.1,  # [code]
            "window": 1024,  # [code]
        },
        source_size=(1440, 2560),  # [code]
        target_size=(1024, 2048),  # [code]
        test_size=(1024, 2048),  # [code]
        crop=(1024, 1024),  # [code]
        rare_crop_pixels=6_000,  # [code] 3,000 times 2
        target_margins=(30 / 1024, 240 / 1024, 30 / 2048),  # [code] rows and columns of the picture
    ),
}  # fmt: skip
INSIDE = {
    "of": "efficientnet_lite0", "norm": "frozen", "frozen_blocks": 0, "attention_width": 64, "attention_bn": "sync",
}  # fmt: skip
SMALL = {"adapt": {"network": "hrda", "network_options": INSIDE} | daformer.SMALL["adapt"]}
PAIRS = {
    "synthia_cityscapes": {
        "adapt": daformer.SYNTHIA
        | dict(source_size=(1520, 2560)),  # [code]
    },
    "ministreet": {"adapt": dict(start_steps=700)},
    "ministreet_camvid": {"adapt": daformer.CAMVID | dict(start_steps=500, steps=300)},
    "camvid_dusk": {"adapt": daformer.CAMVID},
}
OWN = ("of", "detail_weight", "window", "attention_width", "attention_bn", "upsample_first")  # not of the network inside


def rows(source: str, scale: str, start: tuple[str, ...], same: tuple[str, ...]) -> tuple[Row, ...]:
    """Source-only; one resolution, that of the network; two."""
    inside = PUBLISHED["adapt"]["network_options"] if scale == "published" else INSIDE
    options = {key: value for key, value in inside.items() if key not in OWN}
    deeplab = "network_options={'of': 'deeplab_v2', 'form': 'proca', 'imagenet': True, 'window': 1024}"
    form = Row("on DeepLabV2", "hrda", ("network=small", "network=hrda", deeplab), explanation="the same on ResNet-101")
    return (
        labels_alone(same),
        Row("one resolution", "hrda", (f"network={inside['of']}", f"network_options={options}"),
            explanation="DAFormer with pictures as large"),
        Row("two resolutions", "hrda", explanation="halved picture and window, fused: the whole method"),
        *((form,) if scale == "published" else ()),
    )  # fmt: skip


SCORES = {
    "GTA5": (PublishedScore("paper", "single", "the authors' README, mean of three seeds", {"19": 73.8}),),
    "SYNTHIA": (PublishedScore("paper", "single", "the authors' README, mean of three seeds", {"16": 65.8}),),
}

PAPER = Paper(
    name="hrda",
    reference="Hoyer et al., ECCV 2022",
    summary="DAFormer with a halved picture for context and a window in detail",
    stages={"adapt": "hrda"},
    published=PUBLISHED,
    small=SMALL,
    pairs=PAIRS,
    rows=rows,
    scores=SCORES,
    released_test_size=(1024, 2048),
)
