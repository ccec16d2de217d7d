"""SYNTHIA-RAND-CITYSCAPES -> Cityscapes: the GTA5 recipe on SYNTHIA's 16 classes and picture size."""

import dataclasses

from course_lib.recipes import gta5_cityscapes
from course_lib.recipes.recipe import Recipe


def recipe(method: str) -> Recipe:
    """As `gta5_cityscapes`; the authors released no loader for SYNTHIA, so its sizes are those of ProCA's release."""
    return dataclasses.replace(
        gta5_cityscapes.recipe(method),
        name="synthia_cityscapes",
        space="synthia16",
        source_size=(760, 1280),  # ProCA's released code
    )


def stages(paper: str) -> dict[str, Recipe]:
    """ProCA as released for SYNTHIA: the GTA5 stages on 16 classes."""
    changes = {"name": "synthia_cityscapes", "space": "synthia16", "source_size": (760, 1280)}  # [code]
    return {stage: dataclasses.replace(each, **changes) for stage, each in gta5_cityscapes.stages(paper).items()}
