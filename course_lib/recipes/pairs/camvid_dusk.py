"""CamVid, day -> dusk: real photographs, one drive by daylight (labelled) and one at dusk (labels for scoring only).

Constants were taken over from a study that had seen frames of the same drive (seeds 0 and 1); nothing was tuned here.
"""

from course_lib.recipes.paper import PairSettings

PAIR = PairSettings(
    name="camvid_dusk",
    scale="small",
    source="CamVid by day",
    # EfficientNet-lite0 from ImageNet; 300 common source steps, then 200 of each method, on strips of 240x160
    values=dict(
        space="camvid11",
        source_size=(240, 320),
        target_size=(240, 320),
        test_size=(240, 320),
        crop=(160, 240),
        flip=True,
        network="efficientnet_lite0",
        batch_size=4,
        optimiser="adamw",
        lr=1.5e-4,
        head_factor=10.0,
        momentum=0.9,
        weight_decay=1e-4,
        steps=200,
        schedule_steps=None,
        channels_last=True,
        save_every=1_000,
        start_steps=300,
    ),
)
