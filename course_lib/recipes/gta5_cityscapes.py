"""GTA5 -> Cityscapes at full size, as published. Each constant names its source.

Sources: [code] the authors' released behaviour, [paper] the paper, [readme] the authors' page. Where slides and paper give no
number, the released one is taken; released behaviour that contradicts the paper is a switch, named where it would stand.
"""

from course_lib.engine import LoopSettings
from course_lib.methods import AdaptSegNetSettings, OptimiserSettings
from course_lib.recipes.recipe import Recipe


def recipe(method: str) -> Recipe:
    """AdaptSegNet's multi-level ResNet-101 setting; the controls and the oracle differ in the method alone."""
    return Recipe(
        name="gta5_cityscapes",
        method=method,
        space="cityscapes19",
        source_size=(720, 1280),  # [code] whole picture, no crop
        target_size=(512, 1024),  # [code]
        test_size=(512, 1024),  # [code] logits then go to the label's 1024x2048
        flip=False,  # [code] the mirror and scale flags are accepted and ignored
        network="deeplab_v2",
        # [paper] four ASPP branches are summed; the released forward stops after two: add "aspp_branches": 2 for its files
        network_options={"form": "adaptsegnet", "imagenet": True},
        batch_size=1,  # [code]
        optimiser=OptimiserSettings(
            optimiser="sgd",  # [code]
            lr=2.5e-4,  # [code]
            head_factor=10.0,  # [code]
            # [code] lists backbone weights three times, which makes its rate 7.5e-4: --set published_duplicates=yes
            published_duplicates=False,
            momentum=0.9,  # [code] without Nesterov
            weight_decay=5e-4,  # [code]
        ),
        loop=LoopSettings(
            steps=150_000,  # [code] stops early ...
            schedule_steps=250_000,  # [code] ... of a schedule of this length
            power=0.9,  # [code]
            accumulate=1,  # [code] iter_size
            save_every=5_000,  # [code]
        ),
        adaptsegnet=AdaptSegNetSettings(
            levels="multi",
            gan="vanilla",
            lambda_adv=0.001,  # [code]; [readme] 0.0005 for torch >= 0.4
            lambda_adv_aux=0.0002,  # [code]; [readme] 0.00005 for torch >= 0.4
            lambda_seg_aux=0.1,  # [code]
            discriminator_lr=1e-4,  # [code] Adam
            discriminator_betas=(0.9, 0.99),  # [code]
        ),
        workers=4,  # [code]
    )
