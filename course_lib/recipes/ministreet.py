"""MiniStreet, game -> camera, on a CPU. Constants were chosen on seeds 100 and up and on a split of their own
(benchmarks/results/ministreet_design.md); seeds 0, 1, 2 are for reporting alone."""

from course_lib.engine import LoopSettings
from course_lib.evaluation import PseudoLabelSettings
from course_lib.methods import AdaptSegNetSettings, BiDASettings, OptimiserSettings, ProCASettings, SelfTrainingSettings
from course_lib.recipes.recipe import Recipe

SIZE = (128, 256)

# chosen on development seeds: benchmarks/results/proca_design.md, bida_design.md
PROCA = ProCASettings(
    lambda_feat=0.1,
    lambda_out=0.1,
    balanced=True,  # the published mean over pixels loses mIoU here, whatever its weight
    contrast_temperature=0.1,
    target_labels="static",  # labels of the network in training end in collapse
)
SELF_TRAINING = SelfTrainingSettings(lambda_source=1.0, self_training_from="contrast")
PSEUDO = PseudoLabelSettings(label_share=0.4, cap=0.9)
BIDA = BiDASettings(
    lambda_static=1.0,
    lambda_entropy=0.0,
    lambda_entropy_target=0.0,
    lambda_fc=0.1,
    lambda_bc=0.1,
    by_class=True,  # as ProCA's `balanced`
    pairwise=False,  # four pictures' prototypes miss fewer classes than one's
    dynamic_threshold=0.93,  # at 0.9 hybrid labels are denser and lose more than half a point of accuracy
    rounds=2,
    round_rate=1.0,
)


def recipe(method: str) -> Recipe:
    """An ImageNet-pretrained EfficientNet-lite0, a common source-only start, then a short run of each method."""
    staged = method in ("proca", "self-training", "bida")
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
        proca=PROCA,
        self_training=SELF_TRAINING,
        pseudo=PSEUDO,
        bida=BIDA,
    )
