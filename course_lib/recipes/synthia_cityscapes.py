"""SYNTHIA-RAND-CITYSCAPES -> Cityscapes: the GTA5 recipe on SYNTHIA's 16 classes and picture size."""

import dataclasses

from course_lib.recipes import gta5_cityscapes
from course_lib.recipes.recipe import Recipe


def recipe(method: str) -> Recipe:
    """As `gta5_cityscapes`; AdaptSegNet's authors released no loader for SYNTHIA: its sizes are those of ProCA's release."""
    if method == "bida":
        return stages("bida")["round"]
    return dataclasses.replace(
        gta5_cityscapes.recipe(method),
        name="synthia_cityscapes",
        space="synthia16",
        source_size=(760, 1280),  # ProCA's released code
    )


def stages(paper: str) -> dict[str, Recipe]:
    """A paper as released for SYNTHIA: the GTA5 stages on 16 classes."""
    stages = gta5_cityscapes.stages(paper)
    if paper == "proca":
        sizes = dict.fromkeys(stages, (760, 1280))  # [code]
    else:
        sizes = {"source": (720, 1213), "labels": (850, 1432), "round": (850, 1432)}  # [code] short sides as for GTA5
        # [code] 2 epochs of 4700 batches a round, which ends at 0.52 of its first rate; there with a jump between the epochs,
        # for the rate is made for 20,000 steps each. Its weights of both contrasts are 0 for SYNTHIA, which leaves L_base:
        # --set lambda_fc=0 --set lambda_bc=0
        loop = dataclasses.replace(stages["round"].loop, steps=9_400, schedule_steps=18_267)
        stages["round"] = dataclasses.replace(stages["round"], loop=loop)
    changes = {"name": "synthia_cityscapes", "space": "synthia16"}
    return {stage: dataclasses.replace(each, source_size=sizes[stage], **changes) for stage, each in stages.items()}
