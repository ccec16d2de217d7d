"""A recipe: every number of an experiment in one frozen object, each with its source beside it."""

import ast
import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from course_lib.data import ViewSettings
from course_lib.data.depth import check_bits
from course_lib.data.reading import MAX_PIXELS
from course_lib.engine import LoopSettings
from course_lib.evaluation import PseudoLabelSettings
from course_lib.methods import (
    AdaptSegNetSettings,
    BiDASettings,
    OptimiserSettings,
    ProCASettings,
    SelfTrainingSettings,
    SimCLRSettings,
)
from course_lib.typed import AT_LEAST_1, COUNT, RATE, checked, in_range

Size = tuple[int, int]  # (height, width)
MethodName = Literal["source-only", "target-only", "bn-control", "adaptsegnet", "proca", "self-training", "bida", "simclr"]


@dataclass(frozen=True)
class Recipe:
    """What is trained on what, how, and how it is scored. Sizes are (height, width)."""

    name: str
    method: MethodName
    # pictures
    space: str = "cityscapes19"  # the classes: cityscapes19, synthia16, synthia13, camvid11
    source_size: Size | None = None  # pictures are resized to this; None: as they are on disk
    target_size: Size | None = None
    test_size: Size | None = None  # of the network's input; scores are taken at the label's own size
    scale: tuple[float, float] | None = None  # random scale, then
    crop: Size | None = None  # a random crop
    flip: bool = False
    photometric: Literal["none", "weak", "strong"] = "none"  # on the source
    target_photometric: Literal["none", "weak", "strong"] = "none"
    sampling: Literal["uniform", "class-balanced"] = "uniform"  # of the source
    bits: int = 16  # of 16-bit pictures: how many hold data; with 12, the value 4095 is white (docs/pictures.md)
    # network
    network: str = "deeplab_v2"
    network_options: dict[str, Any] = field(default_factory=dict)
    init_from: str | None = None  # a checkpoint of this library: its network's weights, less the heads, are the start
    # optimisation
    batch_size: int = 1  # [code] of AdaptSegNet; pictures of each domain per step
    optimiser: OptimiserSettings = OptimiserSettings()
    loop: LoopSettings = LoopSettings()
    # a source-only start that all methods share; [code] none
    start_steps: int = 0
    start_lr: float | None = None  # None: the recipe's
    start_photometric: Literal["none", "weak", "strong"] = "none"
    start_from: str | None = None  # a start that comes with the library (recipes.shipped), in place of training one
    # the method's own
    adaptsegnet: AdaptSegNetSettings = AdaptSegNetSettings()
    proca: ProCASettings = ProCASettings()
    self_training: SelfTrainingSettings = SelfTrainingSettings()
    pseudo: PseudoLabelSettings = PseudoLabelSettings()  # of the labels that self-training and bida learn from
    bida: BiDASettings = BiDASettings()
    simclr: SimCLRSettings = SimCLRSettings()
    views: ViewSettings = ViewSettings()  # of simclr
    # which checkpoint is the result, of those that `save_every` writes: the one whose target predictions tell most
    # (evaluation.information; looks at no label), the last, or the best on the target's validation labels. The published
    # habit is the third; it looks at the answer, and results then say so.
    select: Literal["information", "last", "target-labels"] = "information"
    select_pictures: int = 100  # ours; target training pictures for `information`
    # scoring
    statistics: Literal["running", "target"] = "running"  # of batch normalisation: as trained, or re-estimated on the target
    # running
    seed: int = 0  # ours
    workers: int = 0  # ours
    colours_on: Literal["loader", "device"] = "loader"  # where colours, blur, normalisation are done: same draws

    def __post_init__(self) -> None:
        in_range(self, seed=(0, 2**62 - 1), workers=COUNT, start_steps=COUNT, batch_size=(1, 10**6), select_pictures=AT_LEAST_1,
                 start_lr=RATE)  # fmt: skip
        for where, value in _numbers(self):  # those in tuples have no range of their own
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError(f"{where} is {str(value)[:24]}...; it wants a whole number of at most {2**63 - 1}.")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{where} is {value}; it wants a number.")
        check_bits(self.bits)
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale}; it wants (lo, hi) with 0 < lo <= hi.")
        largest = 1.0 if self.scale is None else max(1.0, self.scale[1])
        for name in ("source_size", "target_size", "test_size", "crop"):
            height, width = getattr(self, name) or (1, 1)
            times = largest if name in ("source_size", "target_size") else 1.0
            if min(height, width) < 1 or height * width * times**2 > MAX_PIXELS:
                scaled = f" and scale {self.scale}" if times > 1 else ""
                raise ValueError(
                    f"{name} is {width}x{height}{scaled}; it wants WIDTHxHEIGHT of at least 1x1 and at most "
                    f"{MAX_PIXELS / 1e6:.0f} megapixels. Choose a smaller size."
                )

    @property
    def has_start(self) -> bool:
        """Whether all methods begin with one network that has learnt from the source."""
        return bool(self.start_steps or self.start_from)

    def override(self, *assignments: str) -> "Recipe":
        """A copy with settings replaced by "key=value" texts, wherever in the recipe the key stands.

        Sizes are written WIDTHxHEIGHT; options of the network as {'aux': True}, added to those that are there.
        An unknown key or a value that does not fit is a ValueError that says what would.

        >>> Recipe("toy", "adaptsegnet").override("lambda_adv=0.01", "steps=300").adaptsegnet.lambda_adv
        0.01
        """
        recipe = self
        for assignment in assignments:
            key, separator, text = assignment.partition("=")
            if not separator:
                raise ValueError(f"--set got {assignment!r}; it wants key=value, for example --set steps=300.")
            recipe = _replace(recipe, key.strip(), text.strip())
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """As plain dictionaries, lists and numbers: for checkpoints and result files."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Recipe":
        """The recipe that `to_dict` described; ValueError for an unknown setting, or a value of another type."""
        return checked(cls, content, "the recipe")


def _numbers(settings: Any, before: str = "") -> Iterator[tuple[str, int | float]]:
    """All numbers in a settings object and its sections, each with its name."""
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{f.name}.")
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, int | float):
                yield before + f.name, item


def _sections() -> list[str]:
    """The fields of a recipe that are settings objects of their own."""
    return [f.name for f in dataclasses.fields(Recipe) if dataclasses.is_dataclass(f.type)]


def keys() -> list[str]:
    """Every key that `override` knows: the recipe's own first, then those of its sections."""
    own = [f.name for f in dataclasses.fields(Recipe) if f.name not in ("name", "method", *_sections())]
    hints = typing.get_type_hints(Recipe)
    return own + [f.name for section in _sections() for f in dataclasses.fields(hints[section]) if f.name not in own]


def _replace(recipe: Recipe, key: str, text: str) -> Recipe:
    if key not in keys():
        near = difflib.get_close_matches(key, keys(), n=3, cutoff=0.4) or sorted(keys())
        raise ValueError(f"There is no setting {key!r}. Did you mean {', '.join(near)}?")
    own = typing.get_type_hints(Recipe)
    if key in own and key not in _sections():  # `optimiser` is a section and, in it, a setting
        value = parse(key, text, own[key])
        if isinstance(value, dict):
            value = getattr(recipe, key) | value  # options that are not named stay
        if key == "network" and value != recipe.network:
            recipe = dataclasses.replace(recipe, network_options={})  # another network has other options
        return dataclasses.replace(recipe, **{key: value})
    # a key that two sections share (lambda_seg_aux) is set in both
    for section in _sections():
        hints = typing.get_type_hints(own[section])
        if key in hints:
            part = dataclasses.replace(getattr(recipe, section), **{key: parse(key, text, hints[key])})
            recipe = dataclasses.replace(recipe, **{section: part})
    return recipe


def parse(key: str, text: str, hint: Any) -> Any:
    """Read `text` as a value of type `hint`.

    >>> parse("crop", "256x128", Size | None), parse("flip", "yes", bool), parse("lr", "1e-3", float)
    ((128, 256), True, 0.001)
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in options and text.lower() == "none":
        return None
    for option in options:
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if origin is Literal and text in arguments:
            return text
        if option is bool and text.lower() in _TRUTH:
            return _TRUTH[text.lower()]
        if option is str:
            return text
        if origin is tuple and arguments == (int, int) and (size := re.fullmatch(r"(\d+)x(\d+)", text)):
            return int(size[2]), int(size[1])  # WIDTHxHEIGHT -> (height, width)
        try:
            value = ast.literal_eval(text)
            if option is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
            if option is int and isinstance(value, int) and not isinstance(value, bool):
                return value
            if origin is tuple and isinstance(value, tuple) and len(value) == len(arguments):
                return tuple(a(v) for a, v in zip(arguments, value, strict=True))
            if origin is dict and isinstance(value, dict):
                return value
        except (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError):
            continue
    raise ValueError(f"{key}={text} does not fit; {key} wants {_wanted(hint)}.")


_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _wanted(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_wanted(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple and typing.get_args(hint) == (int, int):
        return "a size WIDTHxHEIGHT"
    return {type(None): "none", bool: "yes or no", int: "a whole number", float: "a number"}.get(hint, str(hint))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
