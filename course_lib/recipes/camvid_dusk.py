"""CamVid, day -> dusk: real photographs, one drive by daylight (labelled) and one at dusk (labels for scoring only).

Constants were taken over from a study that had seen frames of the same drive (seeds 0 and 1); nothing was tuned here.
"""

from course_lib.engine import LoopSettings
from course_lib.methods import AdaptSegNetSettings, OptimiserSettings
from course_lib.recipes import ministreet
from course_lib.recipes.recipe import Recipe


def recipe(method: str) -> Recipe:
    """EfficientNet-lite0 from ImageNet; 300 common source steps, then 200 of each method, on strips of 240x160."""
    disturbed = "strong" if method in ("proca", "self-training", "bida") else "none"
    return Recipe(
        name="camvid_dusk",
        method=method,
        space="camvid11",
        source_size=(240, 320),
        target_size=(240, 320),
        test_size=(240, 320),
        crop=(160, 240),
        flip=True,
        photometric=disturbed,
        target_photometric=disturbed,
        start_photometric=disturbed,
        network="efficientnet_lite0",
        batch_size=4,
        optimiser=OptimiserSettings(optimiser="adamw", lr=1.5e-4, head_factor=10.0, momentum=0.9, weight_decay=1e-4),
        loop=LoopSettings(steps=200, schedule_steps=None, channels_last=True, save_every=1_000),
        start_steps=300,
        adaptsegnet=AdaptSegNetSettings(levels="single", lambda_adv=0.001, discriminator_lr=1e-4, discriminator_depth=4),
        # as found on MiniStreet
        proca=ministreet.PROCA,
        self_training=ministreet.SELF_TRAINING,
        pseudo=ministreet.PSEUDO,
        bida=ministreet.BIDA,
    )
