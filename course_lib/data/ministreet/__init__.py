"""MiniStreet: a procedural street with exact labels, depth and instances, in two looks.

    render      one scene as arrays            make, cached, verify      a data set on disk
    build       its street and its camera      LOOKS, StreetGrammar      every number that can be turned
    make_crops, cached_crops, cut              single objects as small pictures, few of them with a class
"""

from .crops import CLASSES, cached_crops, cut, make_crops
from .looks import DEFAULT_GAP, LOOKS, Range, StreetGrammar
from .making import cached, make, scene_seed, verify
from .rendering import Scene, build, render

__all__ = [
    "CLASSES", "DEFAULT_GAP", "LOOKS", "Range", "Scene", "StreetGrammar", "build", "cached", "cached_crops", "cut", "make",
    "make_crops", "render", "scene_seed", "verify",
]  # fmt: skip
