"""A recipe: every number of one training and its scoring in one frozen object, and how its settings are named and replaced.

A setting's full name is [STAGE.]SECTION.KEY, for example `contrast.method.lambda_feat`; KEY alone is enough where one section
of the run has it. Sections: data, network, start, optimiser, loop, scoring, pseudo, heads, method, terms.NAME.
"""

import ast
import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from course_lib import outside
from course_lib.data import RareClassSettings
from course_lib.data.bits import check_bits
from course_lib.data.colours import Photometric
from course_lib.data.reading import MAX_PIXELS
from course_lib.data.transforms import check_margins
from course_lib.engine import LoopSettings
from course_lib.evaluation import PseudoLabelSettings
from course_lib.methods import METHODS, HeadSettings, Method, OptimiserSettings, find_method
from course_lib.methods.step import Stream, joined
from course_lib.methods.terms import TERMS, find_term, load_term
from course_lib.methods.terms.base import not_offered, readable
from course_lib.networks import load_builder
from course_lib.typed import AT_LEAST_1, COUNT, RATE, SHARE, checked, in_range

Size = tuple[int, int]  # (height, width)
SIZES = ("source_size", "target_size", "test_size", "crop")


@dataclass(frozen=True, kw_only=True)
class DataSettings(RareClassSettings):
    """Which pictures, and what is done to them. Sizes are (height, width)."""

    space: str = "cityscapes19"  # the classes: cityscapes19, synthia16, synthia13, camvid11
    source_size: Size | None = None  # pictures are resized to this; None: as they are on disk
    target_size: Size | None = None
    test_size: Size | None = None  # of the network's input; scores are taken at the label's own size
    scale: tuple[float, float] | None = None  # random scale, then
    crop: Size | None = None  # a random crop
    # [code] of AdaptSegNet: none. A source crop is drawn again while one class has this share of its pixels; DAFormer 0.75
    crop_share: float = 1.0
    flip: bool = False
    photometric: Photometric = "none"  # on the source
    target_photometric: Photometric = "none"
    # [code] of DACS: none. Shares of a target picture at the top, bottom and each side where a teacher's labels do not count
    target_margins: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sampling: Literal["uniform", "class-balanced", "rare-class"] = "uniform"  # of the source
    bits: int = 16  # of 16-bit pictures: how many hold data; with 12, the value 4095 is white (docs/pictures.md)
    depth_noise: float = 0.0  # ours: of depth, where a method reads it (data.disparity); 0: as the files have it
    batch_size: int = 1  # [code] of AdaptSegNet; pictures of each stream per step
    first_batch: int = 0  # ours: of each stream; a round of self-training begins after the batches of earlier rounds
    workers: int = 0  # ours
    colours_on: Literal["loader", "device"] = "loader"  # where colours, blur, normalisation are done: same draws


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """The network and its first weights."""

    network: str = "deeplab_v2"
    network_options: dict[str, Any] = field(default_factory=dict)
    init_from: str | None = None  # a checkpoint of this library: its network's weights, less the heads, are the start


@dataclass(frozen=True, kw_only=True)
class StartSettings:
    """A source-only start that all methods share."""

    start_steps: int = 0  # [code] none
    start_lr: float | None = None  # None: the recipe's
    start_photometric: Photometric = "none"
    start_from: str | None = None  # a start that the library ships (experiments.shipped), in place of training one


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """Which checkpoint is the result, and how it is scored."""

    # of the checkpoints that `save_every` writes: the one whose target predictions tell most (evaluation.information; looks
    # at no label), the last, or the best on the target's validation labels. Papers often take the third, which
    # uses target labels; results then say so.
    select: Literal["information", "last", "target-labels"] = "information"
    select_pictures: int = 100  # ours; target training pictures for `information`
    select_spread: bool = False  # ours: these evenly spaced among all by name, or else the first ones
    statistics: Literal["running", "target"] = "running"  # of batch normalisation: as trained, or re-estimated on the target


GROUPS: dict[str, type] = {"data": DataSettings, "network": NetworkSettings, "start": StartSettings, "scoring": ScoringSettings}
# settings that came later: with these values a recipe keeps its identity, its start and its scores
LATER: dict[str, Any] = {"target_margins": [0.0, 0.0, 0.0], "crop_share": 1.0, "depth_noise": 0.0, "first_batch": 0,
                         "select_spread": False}  # fmt: skip
LATER_OPTIMISER: dict[str, Any] = {"nesterov": False}
PARTS = {"optimiser": "optimiser", "loop": "loop", "pseudo": "pseudo", "heads": "heads", "method": "settings"}  # -> attributes


@dataclass(frozen=True)
class Recipe(DataSettings, NetworkSettings, StartSettings, ScoringSettings):
    """What is trained on what by ONE method, how, and how it is scored; `name` is that of the pair of domains."""

    name: str
    method: str
    optimiser: OptimiserSettings = OptimiserSettings()
    loop: LoopSettings = LoopSettings()
    pseudo: PseudoLabelSettings = PseudoLabelSettings()  # of the label files that this network, or one before it, writes
    heads: HeadSettings = HeadSettings()
    settings: Any = None  # the method's own constants; None: its defaults
    terms: dict[str, Any] = field(default_factory=dict)  # the settings of each term, by its name
    seed: int = 0  # ours

    def __post_init__(self) -> None:
        wanted = find_method(self.method).Settings
        if self.settings is None:
            object.__setattr__(self, "settings", wanted())
        elif type(self.settings) is not wanted:
            raise ValueError(
                f"The settings of {self.method} are {wanted.__name__}; got {type(self.settings).__name__}. Another method with "
                "the other settings of a recipe: recipe.of(METHOD)."
            )
        RareClassSettings.__post_init__(self)
        in_range(self, seed=(0, 2**62 - 1), workers=COUNT, start_steps=COUNT, batch_size=(1, 10**6), select_pictures=AT_LEAST_1,
                 start_lr=RATE, crop_share=SHARE, depth_noise=(0.0, 10.0), first_batch=COUNT)  # fmt: skip
        for key, slot in slots(self).items():
            for value in slot.value if isinstance(slot.value, tuple) else (slot.value,):
                _check_number(key, value)  # those in tuples have no range of their own
        check_bits(self.bits)
        check_margins(self.target_margins)
        if len(set(map(outside.short, self.terms))) < len(self.terms):
            raise ValueError(f"Two terms have one name: {', '.join(self.terms)}. Rename the class of one.")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale}; it wants (lo, hi) with 0 < lo <= hi.")
        largest = 1.0 if self.scale is None else max(1.0, self.scale[1])
        for name in SIZES:
            height, width = getattr(self, name) or (1, 1)
            times = largest if name in ("source_size", "target_size") else 1.0
            if min(height, width) < 1 or height * width * times**2 > MAX_PIXELS:
                scaled = f" and scale {self.scale}" if times > 1 else ""
                raise ValueError(
                    f"{name} is {width}x{height}{scaled}; it wants WIDTHxHEIGHT of at least 1x1 and at most "
                    f"{MAX_PIXELS / 1e6:.0f} megapixels. Choose a smaller size."
                )

    @functools.cached_property
    def _slots(self) -> dict[str, "Slot"]:
        """For `slots`. Every setting that is replaced looks them up several times, and making them takes long."""
        found = {"seed": Slot(("seed",), self.seed, int)}
        for section, group in GROUPS.items():
            found |= {f"{section}.{name}": Slot((name,), getattr(self, name), hint) for name, hint in _hints(group).items()}
        for section, attribute in PARTS.items():
            found |= dict(_slots_in(section, (attribute,), getattr(self, attribute)))
        for name, settings in self.terms.items():
            found |= dict(_slots_in(f"terms.{outside.short(name)}", ("terms", name), settings))
        return found

    @property
    def has_start(self) -> bool:
        """Whether all methods begin with one network that has learnt from the source."""
        return bool(self.start_steps or self.start_from) and find_method(self.method).segments

    @property
    def streams(self) -> dict[str, Stream]:
        """What a step reads, by stream: the method's and those of its terms."""
        found = find_method(self.method).streams(self.settings)
        for name, settings in self.terms.items():
            found = joined(found, find_term(name).streams(settings))
        return found

    def of(self, method: str) -> "Recipe":
        """The same recipe for another method, with that method's default settings and without terms."""
        return dataclasses.replace(self, method=method, settings=None, terms={})

    def override(self, *assignments: str) -> "Recipe":
        """A copy with settings replaced by "key=value" texts.

        Sizes are written WIDTHxHEIGHT; options of the network as {'aux': True}, added to those that are there.
        A key that this recipe does not have, or a value that does not fit, is a ValueError that says what would.

        >>> Recipe("toy", "source-only").override("lr=0.01", "loop.steps=300").loop.steps
        300
        """
        recipe = self
        for assignment in assignments:
            key, text = split_assignment(assignment)
            recipe = recipe.replaced(key, text, parsed=False)
        return recipe

    def updated(self, values: Mapping[str, Any]) -> "Recipe":
        """A copy with settings replaced by Python values, as pairs and papers have them."""
        recipe = self
        for key, value in values.items():
            recipe = recipe.replaced(key, value)
        return recipe

    def has(self, key: str) -> bool:
        """Whether `key` names a setting of this recipe."""
        return key == "terms" or bool(_matches(key, slots(self)))

    def replaced(self, key: str, value: Any, parsed: bool = True) -> "Recipe":
        """A copy with one setting replaced; `parsed`: else the value is text."""
        if key == "terms":
            return with_terms({"": self}, value)[""]
        table = slots(self)
        full = find_key(key, table, self)
        slot = table[full]
        if not parsed:
            value = parse(key, value, slot.hint)
        if isinstance(value, dict):
            value = slot.value | value  # options that are not named stay
        if full == "network.network":
            value = load_builder(value)
        recipe = self
        if full == "network.network" and value != self.network:
            recipe = dataclasses.replace(self, network_options={})  # another network has other options
        return _put(recipe, slot.path, value)

    def to_dict(self) -> dict[str, Any]:
        """As plain dictionaries, lists and numbers: for checkpoints and result files."""
        return _plain(dataclasses.asdict(self))

    def identity(self) -> dict[str, Any]:
        """As `to_dict`, without settings of `LATER` that change nothing: what starts and kept scores are found by."""
        content = self.to_dict()
        content["optimiser"] = _differing(content["optimiser"], LATER_OPTIMISER)
        return _differing(content, LATER)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Recipe":
        """The recipe that `to_dict` described; ValueError for an unknown setting, or a value of another type."""
        if isinstance(content, dict) and content.get("method") in METHODS:
            from course_lib.recipes.migration import migrated

            content = migrated(content)
            own = find_method(content["method"]).Settings
            content["settings"] = checked(own, content.get("settings", {}), "the recipe: settings")
            terms = checked(dict[str, dict], content.get("terms", {}), "the recipe: terms")
            content["terms"] = {k: checked(find_term(k).Settings, v, f"the recipe: terms.{k}") for k, v in terms.items()}
        return checked(cls, content, "the recipe")

    @classmethod
    def of_network(cls, content: dict[str, Any]) -> "Recipe":
        """As `from_dict`, where the network alone is used: source-only in place of a method or terms that are not loaded."""
        method, terms = content.get("method"), content.get("terms")
        if not isinstance(content.get("settings"), dict) or not isinstance(terms, dict):  # of an earlier version
            return cls.from_dict(content)
        content = content if set(terms) <= set(TERMS) else content | {"terms": {}}
        return cls.from_dict(content if method in METHODS else content | {"method": "source-only", "settings": {}})


def build_method(recipe: Recipe, segmenter: nn.Module) -> Method:
    """The recipe's method around `segmenter`, with its terms."""
    terms = {outside.short(name): find_term(name)(segmenter, settings) for name, settings in recipe.terms.items()}
    return find_method(recipe.method)(
        segmenter, recipe.settings, recipe.optimiser, heads=recipe.heads, terms=terms, seed=recipe.seed
    )


def _differing(content: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`content` without the entries that have these values."""
    return {key: value for key, value in content.items() if key not in defaults or value != defaults[key]}


class Slot(typing.NamedTuple):
    """Where a setting is in a recipe."""

    path: tuple[str, ...]  # attributes, and the name of a term
    value: Any
    hint: Any


def slots(recipe: Recipe) -> dict[str, Slot]:
    """All settings of a recipe by their full names; kept with the recipe: to be read, not changed."""
    return recipe._slots


def _slots_in(section: str, path: tuple[str, ...], settings: Any) -> Iterator[tuple[str, Slot]]:
    for name, hint in _hints(type(settings)).items():
        value = getattr(settings, name)
        if dataclasses.is_dataclass(value):
            yield from _slots_in(f"{section}.{name}", (*path, name), value)
        else:
            yield f"{section}.{name}", Slot((*path, name), value, hint)


@functools.cache
def _hints(settings: type) -> dict[str, Any]:
    """The fields of a dataclass with their types; kept, for it takes long."""
    hints = typing.get_type_hints(settings)
    return {f.name: hints[f.name] for f in dataclasses.fields(settings)}


def _put(settings: Any, path: tuple[str, ...], value: Any) -> Any:
    first, *rest = path
    if isinstance(settings, dict):  # the terms
        return settings | {first: _put(settings[first], tuple(rest), value)}
    if rest:
        value = _put(getattr(settings, first), tuple(rest), value)
    return dataclasses.replace(settings, **{first: value})


def split_assignment(assignment: str) -> tuple[str, str]:
    """("steps", "300") of "steps=300"; ValueError for a text without "="."""
    key, separator, text = assignment.partition("=")
    if not separator:
        raise ValueError(f"--set got {assignment!r}; it wants key=value, for example --set steps=300.")
    return key.strip(), text.strip()


def _matches(key: str, names: Iterable[str]) -> list[str]:
    """The full names that `key` may be short for; its own, where it is one."""
    names = list(names)
    return [key] if key in names else [name for name in names if name.endswith(f".{key}")]


def find_key(key: str, names: Iterable[str], recipe: Recipe | None = None) -> str:
    """The full name of a setting; ValueError where there is none, or more than one.

    >>> find_key("lr", ["optimiser.lr", "method.discriminator_lr"])
    'optimiser.lr'
    """
    names = list(names)
    found = _matches(key, names)
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"There are several settings {key!r}: {', '.join(found)}. Write one of these.")
    raise ValueError(unknown_key(key, names, {recipe.method} if recipe else ()))


def unknown_key(key: str, names: Iterable[str], methods: Iterable[str]) -> str:
    """What to say of a key that no recipe of a run has: the methods that have it, else the nearest names."""
    methods = sorted(methods)
    run = f" in a run of {', '.join(methods)}" if methods else ""
    having = [f"{name} has it" for name in METHODS if _matches(key, _own_keys(name))]
    having += [f"the term {name} has it (--set terms=+{name})" for name in TERMS if _matches(key, _own_keys(name, term=True))]
    if having:
        return f"There is no setting {key!r}{run}: {', '.join(having)}."
    short = sorted({name.rpartition(".")[2] for name in names})
    near = difflib.get_close_matches(key.rpartition(".")[2], short, n=3, cutoff=0.4) or short
    return f"There is no setting {key!r}{run}. Did you mean {', '.join(near)}?"


def _own_keys(name: str, term: bool = False) -> list[str]:
    settings = TERMS[name].Settings() if term else METHODS[name].Settings()
    return [key for key, _ in _slots_in(f"terms.{name}" if term else "method", (), settings)]


def with_terms(recipes: Mapping[str, Recipe], change: str, strict: bool = True) -> dict[str, Recipe]:
    """The stages that `--set terms=CHANGE` (a,b: these; +a: this one too; -a: without it) is for, changed.

    A term goes to the stages whose method has the predictions that it reads; "-" to those that have the term. ValueError for a
    term that is for none of them; strict=False: it is left out.
    """
    if change.startswith("-"):
        return _without(recipes, change, strict)
    names = named_terms(change)
    fits = {stage: [name for name in names if _takes(recipe, name)] for stage, recipe in recipes.items()}
    for name in names if strict else ():
        if not any(name in found for found in fits.values()):
            offers = {recipe.method: find_method(recipe.method).offers for recipe in recipes.values()}
            raise ValueError(not_offered(outside.short(name), find_term(name), offers))
    changed = {}
    for stage, recipe in recipes.items():
        kept = {name: each for name, each in recipe.terms.items() if change.startswith("+") or name in fits[stage]}
        new = {name: find_term(name).Settings() for name in fits[stage] if name not in kept}
        changed[stage] = dataclasses.replace(recipe, terms=kept | new)
    return changed


def named_terms(change: str) -> list[str]:
    """The terms that `--set terms=CHANGE` adds, by the names that recipes keep; code from outside is imported."""
    return [load_term(text) for text in _texts(change)]


def _texts(change: str) -> list[str]:
    return [text.strip() for text in change.lstrip("+-").split(",") if text.strip() not in ("", "none")]


def _without(recipes: Mapping[str, Recipe], change: str, strict: bool) -> dict[str, Recipe]:
    texts = _texts(change)
    for text in texts if strict else ():
        if not any(text in (name, outside.short(name)) for recipe in recipes.values() for name in recipe.terms):
            having = dict.fromkeys(outside.short(name) for recipe in recipes.values() for name in recipe.terms)
            raise ValueError(f"--set terms={change}: {text} is not among the terms ({', '.join(having) or 'none'}).")
    kept = {
        stage: {name: each for name, each in recipe.terms.items() if not {name, outside.short(name)} & set(texts)}
        for stage, recipe in recipes.items()
    }
    return {stage: dataclasses.replace(recipe, terms=kept[stage]) for stage, recipe in recipes.items()}


def _takes(recipe: Recipe, term: str) -> bool:
    return readable(find_term(term), find_method(recipe.method).offers)


def _check_number(where: str, value: Any) -> None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{where} is {str(value)[:24]}...; it wants a whole number of at most {2**63 - 1}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}; it wants a number.")


def parse(key: str, text: str, hint: Any) -> Any:
    """Read `text` as a value of type `hint`.

    >>> parse("crop", "256x128", Size | None), parse("flip", "yes", bool), parse("lr", "1e-3", float)
    ((128, 256), True, 0.001)
    """
    read = [None] if text.lower() == "none" else []
    read += [_TRUTH[text.lower()]] if text.lower() in _TRUTH else []
    if size := re.fullmatch(r"(\d+)x(\d+)", text):
        read.append((int(size[2]), int(size[1])))  # WIDTHxHEIGHT -> (height, width)
    with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        read.append(ast.literal_eval(text))
    for value in (*read, text):
        with suppress(ValueError):
            value = checked(hint, value, key)
            return float(value) if _is_float(hint) and isinstance(value, int) and not isinstance(value, bool) else value
    raise ValueError(f"{key}={text} does not fit; {key} wants {_wanted(hint)}.")


def assignment(key: str, value: Any) -> str:
    """The text that `parse` reads as this value of a setting.

    >>> assignment("data.crop", (128, 256)), assignment("data.flip", True), assignment("loop.schedule_steps", None)
    ('data.crop=256x128', 'data.flip=yes', 'loop.schedule_steps=none')
    """
    if value is None or isinstance(value, bool):
        text = {None: "none", True: "yes", False: "no"}[value]
    else:
        text = f"{value[1]}x{value[0]}" if key.rpartition(".")[2] in SIZES else str(value)
    return f"{key}={text}"


def _is_float(hint: Any) -> bool:
    return float in (hint, *typing.get_args(hint))


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
