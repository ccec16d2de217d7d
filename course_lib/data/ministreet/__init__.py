"""MiniStreet: a procedural street with exact labels, depth and instances, in two looks.

    render      one scene as arrays            make, cached, verify      a data set on disk
    build       its street and its camera      LOOKS, StreetGrammar      every number that can be turned
"""

from .looks import DEFAULT_GAP, LOOKS, Range, StreetGrammar
from .making import cached, make, scene_seed, verify
from .rendering import Scene, build, render

__all__ = [
    "DEFAULT_GAP",
    "LOOKS",
    "Range",
    "Scene",
    "StreetGrammar",
    "build",
    "cached",
    "make",
    "render",
    "scene_seed",
    "verify",
]
