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
