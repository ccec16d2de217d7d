"""SYNTHIA-RAND-CITYSCAPES -> Cityscapes: the GTA5 settings on SYNTHIA's 16 classes and picture size.

AdaptSegNet's authors released no loader for SYNTHIA: its sizes are those of ProCA's release.
"""

from course_lib.recipes.pairs import gta5_cityscapes
from course_lib.recipes.paper import PairSettings

PAIR = PairSettings(
    name="synthia_cityscapes",
    scale="published",
    source="SYNTHIA",
    pictures=gta5_cityscapes.counts("synthia"),
    source_layout="synthia",
    values=gta5_cityscapes.PAIR.values | dict(
        space="synthia16",
        source_size=(760, 1280),  # [code] ProCA's
    ),
)  # fmt: skip
