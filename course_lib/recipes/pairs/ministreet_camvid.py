"""MiniStreet -> CamVid: from the embedded game look to real photographs, on CamVid's 11 classes."""

from course_lib.recipes.pairs import camvid_dusk
from course_lib.recipes.paper import PairSettings

PAIR = PairSettings(
    name="ministreet_camvid",
    scale="small",
    source="MiniStreet",
    # as `camvid_dusk`, from MiniStreet's 128x256 pictures; crops give both domains the same shape
    values=camvid_dusk.PAIR.values | dict(source_size=(160, 320), target_size=(240, 320)),
)
