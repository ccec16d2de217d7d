"""Recipes: overrides by key=value, their errors, and the round trip through a checkpoint."""

import json
import tomllib
import typing
from dataclasses import replace

import pytest

from course_lib.experiments.show import listing, recipe_text, stages_of
from course_lib.methods import METHODS
from course_lib.methods.terms import TERMS, Term
from course_lib.recipes import PAIRS, PAPERS, layered, layers, overridden, recipe
from course_lib.recipes.recipe import GROUPS, PARTS, SIZES, Recipe, find_key, slots


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("method", METHODS)
def test_every_recipe_survives_json(name, method):
    original = recipe(name, method)
    assert original.name == name and original.method == method
    assert Recipe.from_dict(json.loads(json.dumps(original.to_dict()))) == original


def test_overrides_reach_every_section_and_leave_the_original():
    original = recipe("gta5_cityscapes", "adaptsegnet")
    changed = original.override("lambda_adv=0.01", "steps=300", "lr=1e-3", "crop=512x256", "photometric=strong", "flip=yes")
    assert (changed.settings.lambda_adv, changed.loop.steps, changed.optimiser.lr) == (0.01, 300, 1e-3)
    assert (changed.crop, changed.photometric, changed.flip) == ((256, 512), "strong", True)
    assert original.settings.lambda_adv == 0.001 and original.loop.steps == 150_000
    assert original.override("schedule_steps=none").loop.schedule_steps is None
    options = original.override("network_options={'aspp_branches': 2}").network_options
    assert options == original.network_options | {"aspp_branches": 2}
    assert original.override("network=small").network_options == {}


@pytest.mark.parametrize("method", METHODS)
def test_no_short_name_of_a_method_stands_for_two_things(method):
    """So that --set KEY=VALUE is enough, whatever the method."""
    names = list(slots(Recipe("toy", method)))
    for name in names:
        assert find_key(name.rpartition(".")[2], names) == name
        assert find_key(name, names) == name


def test_a_name_of_two_settings_is_refused_with_both():
    with pytest.raises(ValueError, match="several settings 'weight': terms.a.weight, terms.b.weight. Write one of these"):
        find_key("weight", ["terms.a.weight", "terms.b.weight", "optimiser.weight_decay"])
    assert find_key("a.weight", ["terms.a.weight", "terms.b.weight"]) == "terms.a.weight"


def test_full_names_reach_nested_settings():
    plain = recipe("ministreet_crops", "simclr")
    changed = plain.override("method.views.jitter_strength=0.7", "optimiser.lr=0.5", "loop.keep=3")
    assert (changed.settings.views.jitter_strength, changed.optimiser.lr, changed.loop.keep) == (0.7, 0.5, 3)
    assert changed == plain.override("jitter_strength=0.7", "lr=0.5", "keep=3")


def test_a_setting_of_another_method_is_refused_with_the_methods_that_have_it():
    with pytest.raises(ValueError, match="no setting 'lambda_feat' in a run of source-only: proca has it"):
        recipe("ministreet", "source-only").override("lambda_feat=0.3")
    with pytest.raises(ValueError, match="no setting 'adv.lambda_adv' in a run of adaptsegnet"):
        recipe("ministreet", "adaptsegnet").override("adv.lambda_adv=0.3")


def test_a_key_goes_to_every_stage_that_knows_it():
    stages = {"source": recipe("ministreet", "source-only"), "contrast": recipe("ministreet", "proca")}
    changed = overridden(stages, ("lambda_feat=0.7", "steps=9", "contrast.lr=0.5", "contrast.method.rule=ema"))
    assert changed["contrast"].settings.lambda_feat == 0.7 and changed["contrast"].settings.rule == "ema"
    assert [stage.loop.steps for stage in changed.values()] == [9, 9]
    assert [stage.optimiser.lr for stage in changed.values()] == [2e-4, 0.5]
    with pytest.raises(ValueError, match="no setting 'rounds' in a run of proca, source-only: bida has it"):
        overridden(stages, ("rounds=3",))
    with pytest.raises(ValueError, match="in a run of source-only: proca has it"):
        overridden(stages, ("source.lambda_feat=3",))
    assert overridden(stages, ("rounds=3",), strict=False) == stages


def test_a_key_of_a_term_goes_to_the_stages_that_have_it(monkeypatch):
    monkeypatch.setitem(TERMS, "example", type("Example", (Term,), {"name": "example"}))
    stages = {"source": recipe("ministreet", "source-only"), "contrast": recipe("ministreet", "proca")}
    changed = overridden(stages, ("contrast.terms=+example", "terms.example.weight=0.5", "example.first_step=3"))
    assert changed["source"].terms == {} and changed["contrast"].terms["example"].weight == 0.5
    assert changed["contrast"].terms["example"].first_step == 3
    with pytest.raises(ValueError, match="no setting 'terms.other.weight'"):
        overridden(changed, ("terms.other.weight=1",))


def test_a_term_goes_to_the_stages_that_have_what_it_reads(monkeypatch):
    for name, reads in (("near", ("target",)), ("both", ("source", "target")), ("alone", ()), ("other", ("mixed",))):
        monkeypatch.setitem(TERMS, name, type(name.title(), (Term,), {"name": name, "reads": reads}))
    stages = {"source": recipe("ministreet", "source-only"), "contrast": recipe("ministreet", "proca")}

    def terms(*changes: str, strict: bool = True) -> list[list[str]]:
        return [list(each.terms) for each in overridden(stages, changes, strict).values()]

    assert terms("terms=+near,alone") == [["alone"], ["near", "alone"]]
    assert terms("terms=near,both", "terms=+alone", "terms=-both") == [["alone"], ["near", "alone"]]
    assert terms("terms=near", "terms=both", "terms=+other", strict=False) == [[], ["both"]]
    assert terms("terms=near", "terms=none") == [[], []]
    with pytest.raises(ValueError, match="term other reads the predictions of mixed; source-only offers source, proca offers"):
        terms("terms=+near,other")
    with pytest.raises(ValueError, match="term near reads the predictions of target; source-only offers source. Leave it out"):
        terms("source.terms=+near")
    with pytest.raises(ValueError, match=r"terms=-both: both is not among the terms \(near\)"):
        terms("terms=+near", "terms=-both")


def test_the_settings_of_another_method_do_not_fit():
    proca = recipe("ministreet", "proca")
    with pytest.raises(ValueError, match="settings of bida are BiDASettings; got ProCASettings.*recipe.of"):
        replace(proca, method="bida")
    other = proca.of("bida")
    assert other.method == "bida" and other.settings == METHODS["bida"].Settings() and other.loop == proca.loop


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", PAPERS)
def test_no_constant_of_a_paper_is_lost(name, pair):
    """Each key of a layer is a setting of the stage that it stands for: `layered` raises for any other."""
    paper = PAPERS[name]
    assert set(paper.published) | set(paper.small) <= {"*", *paper.stages}
    recipes = layered(layers(pair, paper), paper.stages, pair)
    assert [each.method for each in recipes.values()] == list(paper.stages.values())
    for stage, values in paper.pairs.get(pair, {}).items():
        for key, value in values.items():
            known = [each for each in recipes.values() if each.has(key)] if stage == "*" else [recipes[stage]]
            found = [slots(each)[find_key(key, slots(each))].value for each in known]
            if isinstance(value, dict):  # options that a layer does not name stay
                found = [{name: options[name] for name in value} for options in found]
            assert found and all(each == value for each in found)


def test_no_stage_is_called_like_a_section():
    sections = {*GROUPS, *PARTS, "terms", "seed"}
    assert not sections & {stage for paper in PAPERS.values() for stage in paper.stages}


def test_the_layers_of_a_recipe_in_their_order():
    found, plain = {}, {}
    recipe("synthia_cityscapes", "bida", found)
    recipe("ministreet", "source-only", plain)
    assert found["data.space"] == "pair synthia_cityscapes" and found["data.crop"] == "bida, published"
    assert found["loop.steps"] == "bida on synthia_cityscapes" and recipe("synthia_cityscapes", "bida").loop.steps == 9_400
    assert "method.tau" not in found, "a default"
    assert plain["loop.steps"] == "pair ministreet"


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("method", METHODS)
def test_show_prints_every_value_and_its_layer(name, method):
    text = recipe_text(name, method)
    content, chosen = tomllib.loads(text), recipe(name, method)
    for full, slot in slots(chosen).items():
        shown = content
        for part in (full if "." in full else f"recipe.{full}").split("."):
            shown = shown[part]
        value = "none" if slot.value is None else slot.value
        if full.rpartition(".")[2] in SIZES and slot.value is not None:
            value = f"{value[1]}x{value[0]}"
        assert shown == (list(value) if isinstance(value, tuple) else value), full
    values = [line for line in text.splitlines() if " = " in line and not line.startswith(("pair =", "method =", "terms ="))]
    differ = sum(full not in slots(chosen) or slot.value != slots(chosen)[full].value
                 for stage in stages_of(name, method).values() for full, slot in slots(stage).items())  # fmt: skip
    assert len(values) == len(slots(chosen)) + differ and all("  # " in line for line in values)


def test_show_names_what_was_set():
    text = recipe_text("ministreet", "bida", ("steps=20", "method.tau=0.5"))
    assert "steps = 20  # --set steps=20\n" in text and "tau = 0.5  # --set method.tau=0.5\n" in text
    assert "rounds = 2  # bida, small\n" in text and "start_steps = 700  # bida on ministreet\n" in text
    assert "seed = 0  # default\n" in text


def test_the_listing_has_every_pair_and_method():
    text = listing()
    assert all(f"| {name} |" in text for name in (*PAIRS, *METHODS))


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
        recipe("mini_street", "adaptsegnet")
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
    a = r.settings
    assert (a.levels, r.heads.lambda_seg_aux, a.lambda_adv_aux, a.lambda_adv) == ("multi", 0.1, 0.0002, 0.001)
    assert (a.discriminator_lr, a.discriminator_betas) == (1e-4, (0.9, 0.99))
    assert not r.flip and r.crop is None and r.batch_size == 1


@pytest.mark.parametrize("where, value, words", [
    (("workers",), "x", "'workers' is 'x', wanted a whole number"),
    (("loop", "steps"), None, "'loop.steps' is None, wanted a whole number"),
    (("test_size",), [64, "x"], "'test_size.1' is 'x', wanted a whole number"),
    (("method",), "magic", "There is no method 'magic'"),
    (("settings", "lambda_adv"), "x", "settings: 'lambda_adv' is 'x', wanted a number"),
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


TOYS = [Recipe("toy", method) for method in METHODS]
METHOD_OF = {slot.path[-1]: toy for toy in TOYS for slot in slots(toy).values()}  # a recipe that has the key
VIEWS = METHODS["simclr"].Settings().views
SETTINGS = [toy.settings for toy in TOYS] + [VIEWS, TOYS[0], *(getattr(TOYS[0], name) for name in PARTS.values())]
EVERY_NUMBER = sorted({name for settings in SETTINGS for name in numbers_of(settings)})


@pytest.mark.parametrize("key", EVERY_NUMBER)
def test_every_number_has_a_range(key):
    """A slip of the keyboard is refused at once, with the key: also a number that overflows hours later."""
    signed = ("threshold", "target_cap", "dynamic_threshold")  # of logits and cosines
    for text in ("-7", "1e308", "-1e308", "nan", "inf", "9" * 30, str(2**62)):
        if text == "-7" and key in signed:
            continue
        with pytest.raises(ValueError, match=key):
            METHOD_OF[key].override(f"{key}={text}")


def test_the_numbers_are_found():
    assert len(EVERY_NUMBER) > 60 and {"lr", "power", "keep", "tau", "head_layers", "start_lr", "bits"} <= set(EVERY_NUMBER)
