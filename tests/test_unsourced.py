"""Every number of the full-size recipes names its source, or stands in this list: a new one without source fails here."""

from benchmarks import unsourced as module
from benchmarks.unsourced import listing, unsourced

OURS = [
    # how often a round of BiDA saves, and its source-only start, whose files are not released
    ("bida", "save_every", "1000"),
    ("bida", "lr", "0.00025"),
    ("bida", "steps", "60000"),
    ("bida", "schedule_steps", "60000"),
    # BiDA's dynamic labels: the release drops them, the slides give no numbers
    ("bida", "dynamic_threshold", "0.9"),
    ("bida", "bank_momentum", "0.99"),
    ("bida", "dynamic_after", "0"),
    # GIST: the sources at hand give no crops, no lengths of stages
    ("gist", "crop", "(512, 512)"),
    ("gist", "steps", "10000"),
    ("gist", "schedule_steps", "10000"),
    ("gist", "one_threshold", "0.0"),
    # constants of rules of ProCA's prototypes that are not the default; how many pictures choose a checkpoint
    ("proca", "prototype_momentum", "0.9"),
    ("proca", "source_share", "0.5"),
    ("recipe", "select_pictures", "100"),
    # the rate of SegSDF falls to a tenth in its release, here by a power to 0
    ("segsdf", "schedule_steps", "40000"),
    # how a run is kept, and what the recipes or the user set
    ("loop", "log_every", "10"),
    ("loop", "keep", "2"),
    ("recipe", "seed", "0"),
    ("recipe", "workers", "0"),
    ("recipe", "bits", "16"),
    ("recipe", "depth_noise", "0.0"),
    ("recipe", "first_batch", "0"),
]


def test_these_numbers_and_no_others_are_ours():
    found = sorted((number.where.rpartition(".")[2], number.name, number.value) for number in unsourced())
    assert found == sorted(OURS), f"\n{listing()}"


def test_a_number_without_source_is_found(monkeypatch):
    lines = (
        "recipe = Recipe(",
        "lr=0.1,  # [code]",
        "# [paper] both",
        "crop=(4, 8),",
        "steps=7,",
        "rate=-1,",
        "name='x',",
        ")",
    )
    text = "\n".join(lines)
    fields = "class A:\n    rate: float = 0.1  # how fast\n    m: float = 0.9  # [code]\n    name: str = 'x'\n"
    assert [number.name for number in module._fields("somewhere", fields)] == ["rate", "m"]
    paper = (
        "PUBLISHED = {'*': dict(lambda_a=0.1), 'source': (A := dict(lambda_b=0.2)) | dict(momentum=0.1)}\n"
        "SMALL = {'*': dict(lambda_c=0.3)}\n"
        "PAIRS = {\n"
        "    'synthia_cityscapes': {'*': dict(lambda_d=0.4)},\n"
        "    'ministreet': {'*': dict(lambda_e=0.5)},\n"
        "}\n"
    )
    texts = dict.fromkeys(module.RECIPES, text) | dict.fromkeys(module.PAPERS, paper)
    monkeypatch.setattr(module, "_text", lambda name: texts.get(name, fields))
    assert {number.name for number in unsourced()} == {"steps", "rate", "momentum", "lambda_a", "lambda_b", "lambda_d"}
    names = {name.rpartition(".")[2] for name in (*module.RECIPES, *module.PAPERS)}
    assert {"gta5_cityscapes", "synthia_cityscapes", "adaptsegnet", "proca", "bida"} <= names and "ministreet" not in names
    found = {number.name: number.comment for number in module._keywords("somewhere", text)}
    assert found == {"lr": "[code]", "crop": "[paper] both", "steps": "", "rate": ""}
