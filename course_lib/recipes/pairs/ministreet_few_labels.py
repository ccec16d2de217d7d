"""Few labels on MiniStreet's camera look alone: 20 of 400 pictures labelled, the others not. On a CPU."""

from course_lib.recipes.pairs import ministreet
from course_lib.recipes.paper import Counts, PairSettings

PAIR = PairSettings(
    name="ministreet_few_labels",
    scale="small",
    source="MiniStreet's camera",
    pictures=Counts(20, 380, 120),
    labels="20",
    made=True,
    values=ministreet.PAIR.values,  # the start: 400 steps on the labelled pictures; then 300 of each method
)
