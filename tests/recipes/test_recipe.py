"""Recipes: overrides by key=value, their errors, and the round trip through a checkpoint."""

import dataclasses
import json
import typing

import pytest

from course_lib.recipes import METHODS, RECIPES, recipe
from course_lib.recipes.recipe import Recipe, keys


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("method", METHODS)
def test_every_recipe_survives_json(name, method):
    original = recipe(name, method)
    assert original.name == name and original.method == method
    assert Recipe.from_dict(json.loads(json.dumps(original.to_dict()))) == original


def test_overrides_reach_every_section_and_leave_the_original():
    original = recipe("gta5_cityscapes", "adaptsegnet")
    changed = original.override("lambda_adv=0.01", "steps=300", "lr=1e-3", "crop=512x256", "photometric=strong", "flip=yes")
    assert (changed.adaptsegnet.lambda_adv, changed.loop.steps, changed.optimiser.lr) == (0.01, 300, 1e-3)
    assert (changed.crop, changed.photometric, changed.flip) == ((256, 512), "strong", True)
    assert original.adaptsegnet.lambda_adv == 0.001 and original.loop.steps == 150_000
    assert original.override("schedule_steps=none").loop.schedule_steps is None
    options = original.override("network_options={'aspp_branches': 2}").network_options
    assert options == original.network_options | {"aspp_branches": 2}
    assert original.override("network=small").network_options == {}


def test_no_key_stands_for_two_things():
    assert len(keys()) == len(set(keys()))


@pytest.mark.parametrize(
    "assignment, words",
    [
        ("lamda_adv=0.1", "no setting 'lamda_adv'.*lambda_adv"),
        ("steps=many", "steps=many does not fit; steps wants a whole number"),
        ("steps=1.5", "whole number"),
        ("photometric=loud", "one of none, weak, strong"),
        ("crop=512", "a size WIDTHxHEIGHT or none"),
        ("flip=perhaps", "yes or no"),
        ("steps", "key=value"),
    ],
)
def test_wrong_overrides_say_what_would_do(assignment, words):
    with pytest.raises(ValueError, match=words):
        recipe("ministreet", "adaptsegnet").override(assignment)


def test_unknown_names_offer_the_nearest():
    with pytest.raises(ValueError, match="'mini_street'. Did you mean ministreet"):
        recipe("mini_street")
    with pytest.raises(ValueError, match="method 'adaptsegnett'.*adaptsegnet"):
        recipe("ministreet", "adaptsegnett")


def test_the_full_size_recipe_is_the_published_one():
    r = recipe("gta5_cityscapes", "adaptsegnet")
    assert (r.source_size, r.target_size, r.test_size) == ((720, 1280), (512, 1024), (512, 1024))
    assert (r.optimiser.lr, r.optimiser.head_factor, r.optimiser.momentum, r.optimiser.weight_decay) == (
        2.5e-4,
        10,
        0.9,
        5e-4,
    )
    assert (r.loop.steps, r.loop.schedule_steps, r.loop.power, r.loop.save_every) == (150_000, 250_000, 0.9, 5_000)
    a = r.adaptsegnet
    assert (a.levels, a.lambda_seg_aux, a.lambda_adv_aux, a.lambda_adv) == ("multi", 0.1, 0.0002, 0.001)
    assert (a.discriminator_lr, a.discriminator_betas) == (1e-4, (0.9, 0.99))
    assert not r.flip and r.crop is None and r.batch_size == 1


@pytest.mark.parametrize("where, value, words", [
    (("workers",), "x", "'workers' is 'x', wanted a whole number"),
    (("loop", "steps"), None, "'loop.steps' is None, wanted a whole number"),
    (("test_size",), [64, "x"], "'test_size.1' is 'x', wanted a whole number"),
    (("method",), "magic", "'method' is 'magic', wanted one of 'source-only'"),
    (("colour",), 1, "without 'colour'"),
    (("test_size",), [100_000, 100_000], "test_size is 100000x100000; .*at most 67 megapixels"),
])  # fmt: skip
def test_a_recipe_of_a_file_has_the_types_of_its_settings(where, value, words):
    content = recipe("ministreet", "adaptsegnet").to_dict()
    inner = content[where[0]] if len(where) > 1 else content
    inner[where[-1]] = value
    with pytest.raises(ValueError, match=f"the recipe: .*{words}"):
        Recipe.from_dict(content)


@pytest.mark.parametrize("text, words", [
    ("seed=99999999999999999999", "seed is 99999999999999999999; .* from 0 to"), ("seed=-1", "from 0 to"),
    ("steps=" + "9" * 400, "steps is 9{24}; it wants"), ("workers=-1", "workers is -1; .*from 0 to"),
    ("batch_size=0", "from 1 to"), ("select_pictures=0", "from 1 to"), ("start_steps=-1", "from 0 to"),
    ("bits=17", "bits=17, wanted"), ("momentum=-1", "momentum is -1.0; .*0.0 to 0.999999"),
    ("weight_decay=-1", "weight_decay is -1.0; .*from 0.0"),
    ("crop=0x5", "crop is 0x5; it wants WIDTHxHEIGHT"), ("test_size=9000x9000", "test_size is 9000x9000.*67 megapixels"),
    ("scale=(0.0, 1.0)", "scale is .*0 < lo"), ("scale=(1.0, 900.0)", "source_size is 256x128 and scale .*67 megapixels"),
])  # fmt: skip
def test_a_number_beyond_its_range_is_refused_with_the_range(text, words):
    with pytest.raises(ValueError, match=words):
        recipe("ministreet", "adaptsegnet").override(text)


def numbers_of(settings) -> list[str]:
    """The fields that are one number, or none."""
    hints = typing.get_type_hints(type(settings))
    of_one = {name: hint for name, hint in hints.items() if typing.get_origin(hint) is not tuple}
    return [name for name, hint in of_one.items() if {int, float} & set(typing.get_args(hint) or (hint,))]


TOY = Recipe("toy", "proca")
SECTIONS = [getattr(TOY, field.name) for field in dataclasses.fields(Recipe) if dataclasses.is_dataclass(field.type)]
EVERY_NUMBER = sorted({name for settings in (TOY, *SECTIONS) for name in numbers_of(settings)})


@pytest.mark.parametrize("key", EVERY_NUMBER)
def test_every_number_has_a_range(key):
    """A slip of the keyboard is refused at once, with the key: also a number that overflows hours later."""
    signed = ("threshold", "target_cap", "dynamic_threshold")  # of logits and cosines
    for text in ("-7", "1e308", "-1e308", "nan", "inf", "9" * 30, str(2**62)):
        if text == "-7" and key in signed:
            continue
        with pytest.raises(ValueError, match=key):
            recipe("ministreet", "proca").override(f"{key}={text}")


def test_the_numbers_are_found():
    assert len(EVERY_NUMBER) > 60 and {"lr", "power", "keep", "tau", "head_layers", "start_lr", "bits"} <= set(EVERY_NUMBER)
