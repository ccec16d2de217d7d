"""SePiCo (Xie et al., TPAMI 2023): DAFormer's constants with larger crops, and contrast with class statistics of the source.

Sources: [code] the authors' released behaviour, [readme] the authors' page. Other than released: what the file of the term
names; colours of source pictures are drawn for each picture and without a blur (there as those of the target); the last network
is tested (there one of each 1,000 steps). The start as for DAFormer.
"""

from collections.abc import Mapping
from typing import Any

from course_lib.recipes.paper import Paper, PublishedScore, Row, labels_alone
from course_lib.recipes.papers import daformer, pipa_daformer

SIZES = {key: pipa_daformer.PUBLISHED["adapt"][key] for key in ("crop", "target_size", "test_size", "target_margins")}  # [code]


def without_terms(values: Mapping[str, Any]) -> dict[str, Any]:
    """DAFormer's constants but for those of its term."""
    return {key: value for key, value in values.items() if not key.startswith("terms.")}


PUBLISHED = {
    "adapt": without_terms(daformer.PUBLISHED["adapt"])
    | SIZES
    # [code] source labels and contrast have the coloured source; mixture and memory the plain one
    | {"photometric": "small-jitter"}
    | {"terms.distribution_contrast.target_photometric": "small-jitter"}  # [code]
    | {"terms.distribution_contrast.contrast_temperature": 100.0},  # [code]
}
DEEPLAB = (
    "network=deeplab_v2",
    "network_options={'form': 'sepico', 'imagenet': 'resnet101_v1c.pth'}",
    "terms.distribution_contrast.projector_hidden=2048",  # [code]
    "terms.distribution_contrast.projector_maps=last",  # [code]
)
# ours, not compared with others
TERMS = {
    "terms.distribution_contrast.loss_from": 20,
    "terms.distribution_contrast.projector_hidden": 64,
    "terms.distribution_contrast.projector_out": 64,
    "target_crops": "drawn",  # the teacher's pass over whole pictures is in no count of passes
}
SMALL = {"adapt": without_terms(daformer.SMALL["adapt"]) | TERMS}
PAIRS = {pair: {"adapt": without_terms(layer["adapt"])} for pair, layer in daformer.PAIRS.items()}


def rows(source: str, scale: str, start: tuple[str, ...], same: tuple[str, ...]) -> tuple[Row, ...]:
    """Source-only; without contrast; the three forms of the contrast; the released temperature or that of the small pairs."""
    key = "terms.distribution_contrast"
    found = (
        labels_alone(same),
        Row("without contrast", "sepico", ("terms=none",), explanation="the mean teacher"),
        Row("ProtoCL", "sepico", (f"{key}.kind=prototype",), explanation="the mean of each class"),
        Row("BankCL", "sepico", (f"{key}.kind=bank",), explanation="the means of many batches"),
        Row("DistCL", "sepico", explanation="mean and variance of each class"),
    )
    if scale == "published":
        low = (f"{key}.contrast_temperature=0.1",)
        low = Row("DistCL, temperature 0.1", "sepico", low, explanation="near classes count most")
        return (*found, low, Row("DistCL on DeepLabV2", "sepico", DEEPLAB, explanation="the same on ResNet-101"))
    high = (f"{key}.contrast_temperature=100",)
    return (*found, Row("DistCL, temperature 100", "sepico", high, explanation="as released: hardly any gradient"))


SCORES = {
    "GTA5": (PublishedScore("paper", "single", "the authors' README, DistCL", {"19": 70.3}),),
    "SYNTHIA": (PublishedScore("paper", "single", "the authors' README, DistCL", {"16": 64.3}),),
}

PAPER = Paper(
    name="sepico",
    reference="Xie et al., TPAMI 2023",
    summary="a mean teacher with contrast of both domains' cells with class statistics of the source",
    stages={"adapt": "sepico"},
    published=PUBLISHED,
    small=SMALL,
    pairs=PAIRS,
    rows=rows,
    scores=SCORES,
    released_test_size=(640, 1280),
)
