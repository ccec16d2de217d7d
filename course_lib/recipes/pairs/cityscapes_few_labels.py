"""Few labels on Cityscapes at full size: 372 of 2,975 pictures labelled (1/8), the setting of ClassMix's release.

Sources: [code] the authors' released behaviour.
"""

from course_lib.data.published import PICTURES
from course_lib.recipes.pairs import gta5_cityscapes
from course_lib.recipes.paper import Counts, PairSettings

LABELLED = 372  # [code] 1/8

PAIR = PairSettings(
    name="cityscapes_few_labels",
    scale="published",
    source="Cityscapes",
    pictures=Counts(LABELLED, PICTURES["cityscapes"]["train"] - LABELLED, PICTURES["cityscapes"]["val"]),
    labels=str(LABELLED),
    values=gta5_cityscapes.PAIR.values | dict(
        source_size=(512, 1024),  # [code]
        batch_size=2,  # [code] 2 labelled ones and 2 others
        steps=40_000,  # [code]
        schedule_steps=40_000,  # [code]
    ),
)  # fmt: skip
