"""MiniStreet, game -> camera, on a CPU. Constants were chosen on seeds 100 and up and on a split of their own
(benchmarks/results/ministreet_design.md); seeds 0, 1, 2 are for reporting alone."""

from course_lib.engine import LoopSettings
from course_lib.evaluation import PseudoLabelSettings
from course_lib.methods import AdaptSegNetSettings, OptimiserSettings, ProCASettings, SelfTrainingSettings
from course_lib.recipes.recipe import Recipe

SIZE = (128, 256)


def recipe(method: str) -> Recipe:
    """An ImageNet-pretrained EfficientNet-lite0, a common source-only start, then a short run of each method."""
    staged = method in ("proca", "self-training")
    disturbed = "strong" if staged else "none"
    return Recipe(
        name="ministreet",
        method=method,
        space="cityscapes19",
        source_size=SIZE,
        target_size=SIZE,
        test_size=SIZE,
        flip=True,
        # ProCA's stages are released with jitter, blur and grey; here the disturbance that every row of its table gets
        photometric=disturbed,
        target_photometric=disturbed,
        start_photometric=disturbed,
        network="efficientnet_lite0",
        network_options={
            "norm": "frozen",  # ImageNet's normalisation statistics stay: there are none to adapt
            "frozen_blocks": 5,  # the weights up to stride 8 stay too: a step costs 0.7 of the time
        },
        batch_size=4,
        optimiser=OptimiserSettings(optimiser="adamw", lr=2e-4, head_factor=10.0, momentum=0.9, weight_decay=1e-4),
        loop=LoopSettings(steps=300, schedule_steps=None, warmup=10, log_every=5, channels_last=True, save_every=1_000),
        # label files hold a network to what it knew when it wrote them: its source stage has to be over (proca_design.md)
        start_steps=700 if staged else 400,
        start_lr=2e-4,
        adaptsegnet=AdaptSegNetSettings(
            levels="single",
            lambda_adv=0.01,
            discriminator_lr=1e-3,
            discriminator_depth=3,  # pictures are small, and the map is not upsampled: 32x64
            discriminator_input="output",
        ),
        proca=ProCASettings(
            # chosen on the development seed: benchmarks/results/proca_design.md
            lambda_feat=0.1,
            lambda_out=0.1,
            balanced=True,  # the published mean over pixels loses mIoU here, whatever its weight
            contrast_temperature=0.1,
            target_labels="static",  # labels of the network in training end in collapse
        ),
        self_training=SelfTrainingSettings(lambda_source=1.0, self_training_from="contrast"),
        pseudo=PseudoLabelSettings(label_share=0.4, cap=0.9),
    )


def stages(paper: str) -> dict[str, Recipe]:
    """The constants of every stage of `paper`: the common start, then as many steps in all as the other methods have."""
    half = f"steps={recipe('proca').loop.steps // 2}"
    return {
        "source": recipe("source-only").override("start_steps=700", "start_photometric=strong"),  # its common start
        "contrast": recipe("proca").override(half),
        "labels": recipe("self-training"),
        "self-training": recipe("self-training").override(half),
    }
