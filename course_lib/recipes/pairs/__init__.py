"""What a pair of domains fixes, whatever the method: sizes, network, optimiser, steps. One file per pair, numbers only."""

from course_lib.recipes.paper import PairSettings
from course_lib.registry import find_named, modules_of

PAIRS: dict[str, PairSettings] = {module.PAIR.name: module.PAIR for module in modules_of(__name__, __path__)}


def find_pair(name: str) -> PairSettings:
    """The settings of a pair; ValueError, with the nearest names, for an unknown one."""
    find_named("recipe", name, PAIRS)
    return PAIRS[name]
