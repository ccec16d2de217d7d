"""MiniStreet -> CamVid: from the embedded game look to real photographs, on CamVid's 11 classes."""

import dataclasses

from course_lib.recipes import camvid_dusk
from course_lib.recipes.recipe import Recipe


def recipe(method: str) -> Recipe:
    """As `camvid_dusk`, from MiniStreet's 128x256 pictures; crops give both domains the same shape."""
    return dataclasses.replace(
        camvid_dusk.recipe(method),
        name="ministreet_camvid",
        source_size=(160, 320),
        target_size=(240, 320),
    )
