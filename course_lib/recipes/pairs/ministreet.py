"""MiniStreet, game -> camera, on a CPU. Constants were chosen on seeds 100 and up and on a split of their own
(benchmarks/results/ministreet_design.md); seeds 0, 1, 2 are for reporting alone."""

from course_lib.recipes.paper import Counts, PairSettings

SIZE = (128, 256)

PAIR = PairSettings(
    name="ministreet",
    scale="small",
    source="GTA5",
    pictures=Counts(400, 400, 120),  # what `uda ablate` makes
    source_layout="gta5",
    made=True,
    # an ImageNet-pretrained EfficientNet-lite0, a common source-only start, then a short run of each method
    values=dict(
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
        optimiser="adamw",
        lr=2e-4,
        head_factor=10.0,
        momentum=0.9,
        weight_decay=1e-4,
        steps=300,
        schedule_steps=None,
        warmup=10,
        log_every=5,
        channels_last=True,
        save_every=1_000,
        start_steps=400,
        start_lr=2e-4,
    ),
)
