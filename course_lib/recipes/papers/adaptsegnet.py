"""AdaptSegNet (Tsai et al., CVPR 2018): adversarial learning in the output space, two levels.

Sources: [code] the authors' released behaviour, [paper] the paper, [readme] the authors' page.
"""

from course_lib.labels import SPACES
from course_lib.recipes.paper import Paper, PublishedScore, per_class

PUBLISHED = {
    "adapt": dict(  # with the network of the pair, which has AdaptSegNet's form
        levels="multi",
        gan="vanilla",
        # the paper's and the code's; its README advises half and a quarter of them for torch >= 0.4:
        # --set lambda_adv=0.0005 --set lambda_adv_aux=0.00005
        lambda_adv=0.001,  # [code]
        lambda_adv_aux=0.0002,  # [code]
        discriminator_lr=1e-4,  # [code] Adam
        discriminator_betas=(0.9, 0.99),  # [code]
    ),
}
SMALL = {"adapt": dict(levels="single")}
CAMVID = {"adapt": dict(lambda_adv=0.001, discriminator_lr=1e-4, discriminator_depth=4)}
PAIRS = {
    "ministreet": {
        "adapt": dict(
            lambda_adv=0.01,
            discriminator_lr=1e-3,
            discriminator_depth=3,  # pictures are small, and the map is not upsampled: 32x64
            discriminator_input="output",
        )
    },
    "camvid_dusk": CAMVID,
    "ministreet_camvid": CAMVID,
}
SCORES = {
    "GTA5": (
        PublishedScore(
            "paper", "single", "the paper's multi-level row, as issue 11 of the authors' repository lists it (mean 42.37)",
            {"19": 42.4},
            per_class(SPACES["cityscapes19"].classes, "86.5 36.0 79.9 23.4 23.3 23.9 35.2 14.8 83.4 33.3 75.6 58.5 27.6 73.7 "
                                                      "32.5 35.4 3.9 30.1 28.1"),
        ),
        PublishedScore("released", "single", "the authors' README; issue 56: 42.35 with their file", {"19": 42.4}),
    ),
}  # fmt: skip

PAPER = Paper(
    name="adaptsegnet",
    reference="Tsai et al., CVPR 2018",
    summary="adversarial alignment of the outputs",
    stages={"adapt": "adaptsegnet"},
    published=PUBLISHED,
    small=SMALL,
    pairs=PAIRS,
    scores=SCORES,
    released_test_size=(512, 1024),
    compared=True,
)
