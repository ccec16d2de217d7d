"""MiniStreet, game -> camera, on a CPU. Constants were chosen on seeds 100 and up and on a split of their own
(benchmarks/results/ministreet_design.md); seeds 0, 1, 2 are for reporting alone."""

from course_lib.engine import LoopSettings
from course_lib.methods import AdaptSegNetSettings, OptimiserSettings
from course_lib.recipes.recipe import Recipe

SIZE = (128, 256)


def recipe(method: str) -> Recipe:
    """An ImageNet-pretrained EfficientNet-lite0, a common source-only start, then a short run of each method."""
    return Recipe(
        name="ministreet",
        method=method,
        space="cityscapes19",
        source_size=SIZE,
        target_size=SIZE,
        test_size=SIZE,
        flip=True,
        network="efficientnet_lite0",
        network_options={
            "norm": "frozen",  # ImageNet's normalisation statistics stay: there are none to adapt
            "frozen_blocks": 5,  # the weights up to stride 8 stay too: a step costs 0.7 of the time
        },
        batch_size=4,
        optimiser=OptimiserSettings(optimiser="adamw", lr=2e-4, head_factor=10.0, momentum=0.9, weight_decay=1e-4),
        loop=LoopSettings(steps=300, schedule_steps=None, warmup=10, log_every=5, channels_last=True, save_every=1_000),
        start_steps=400,
        start_lr=2e-4,
        adaptsegnet=AdaptSegNetSettings(
            levels="single",
            lambda_adv=0.01,
            discriminator_lr=1e-3,
            discriminator_depth=3,  # pictures are small, and the map is not upsampled: 32x64
            discriminator_input="output",
        ),
    )
