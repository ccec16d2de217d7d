"""SimCLR (Chen et al., ICML 2020): the published constants are the defaults of its Settings; these are for small pictures."""

from course_lib.recipes.paper import Paper

NO_CHOICE = {"pictures": dict(select="last")}  # there is no target whose predictions could choose a checkpoint
PAIRS = {
    "ministreet_crops": {
        "pictures": dict(
            temperature=0.2,
            head_hidden=128,
            head_out=64,
            crop_area=(0.2, 1.0),
            jitter_strength=0.4,  # released code, CIFAR: 0.5; colours tell these classes apart, more costs accuracy
            blur_probability=0.0,  # released code, CIFAR
        )
    },
}

PAPER = Paper(
    name="simclr",
    reference="Chen et al., ICML 2020",
    summary="contrast between two views of a picture, without labels",
    stages={"pictures": "simclr"},
    published=NO_CHOICE,
    small=NO_CHOICE,
    pairs=PAIRS,
)
