"""Few labels on CamVid: real photographs of one drive, 10 of them labelled."""

from course_lib.recipes.pairs import camvid_dusk
from course_lib.recipes.paper import PairSettings

PAIR = PairSettings(
    name="camvid_few_labels",
    scale="small",
    source="CamVid",
    labels="10",
    values=camvid_dusk.PAIR.values,
)
