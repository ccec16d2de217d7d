"""Recipe files: what `uda recipe show` writes, read again, edited, and with mistakes."""

import re

import pytest

from course_lib.experiments.plan import plan
from course_lib.experiments.recipe_file import read_recipe
from course_lib.experiments.rows import check_overrides, row_recipe, standard_rows
from course_lib.experiments.show import recipe_text, stages_of
from course_lib.methods import METHODS
from course_lib.recipes import PAIRS, recipe

ALL = [(pair, method) for pair in PAIRS for method in METHODS]


@pytest.mark.parametrize("pair, method", ALL)
def test_what_is_shown_is_the_recipe_again(pair, method, tmp_path):
    """For every pair and method: the recipe of one training, and the settings of all stages."""
    (tmp_path / "mine.toml").write_text(recipe_text(pair, method), encoding="utf-8")
    found = read_recipe(tmp_path / "mine.toml")
    assert (found.pair, found.method, found.changes, found.rows) == (pair, method, (), ())
    assert found.recipe == recipe(pair, method)
    changed = ("lr=0.125", "crop=32x16", "scale=(0.5, 2.0)", "network_options={'norm': 'frozen', 'x': 1}")
    (tmp_path / "mine.toml").write_text(recipe_text(pair, method, changed), encoding="utf-8")
    assert read_recipe(tmp_path / "mine.toml").recipe == recipe(pair, method).override(*changed)


def test_a_change_is_a_setting_of_every_stage_that_has_it(tmp_path):
    """And a table of one stage comes after it."""
    path = tmp_path / "mine.toml"
    text = recipe_text("ministreet", "proca")
    path.write_text(text.replace("\nlr = 0.0002", "\nlr = 0.5", 1).replace("lambda_feat = 0.1", "lambda_feat = 0.3", 1)
                    + "\n\n[labels.optimiser]\nlr = 0.25\n", encoding="utf-8")  # fmt: skip
    found = read_recipe(path)
    assert found.changes == ("optimiser.lr=0.5", "method.lambda_feat=0.3", "labels.optimiser.lr=0.25")
    stages = {stage.name: stage.recipe for stage in plan("ministreet", "proca", found.changes)}
    assert stages["contrast"].optimiser.lr == 0.5 and stages["contrast"].settings.lambda_feat == 0.3
    assert stages["labels"].optimiser.lr == 0.25
    assert [stages[name].loop.steps for name in ("contrast", "self-training")] == [150, 150]
    assert found.own_changes == found.changes[:2] and found.recipe.settings.lambda_feat == 0.3
    check_overrides(standard_rows("ministreet", ("proca",)), "ministreet", found.changes)


def test_rows_of_a_file_have_their_controls(tmp_path):
    (tmp_path / "mine.toml").write_text(
        '[recipe]\npair = "ministreet"\nmethod = "proca"\n[rows.half]\nset = ["lambda_feat=0.05"]\nexplanation = "half"\n'
        '[rows."strong colours"]\nmethod = "adaptsegnet"\nset = ["photometric=strong"]\n', encoding="utf-8",
    )  # fmt: skip
    found = read_recipe(tmp_path / "mine.toml")
    rows = {row.name: row for row in standard_rows(found.pair, (), found.rows)}
    assert rows["half"].plan == "proca" and rows["half"].overrides == ("lambda_feat=0.05",)
    control = rows[rows["strong colours"].control]
    assert "photometric=strong" in control.overrides and "proca" not in rows
    assert rows["half"].control in rows and rows["half"].explanation == "half"


def test_a_file_may_name_code_that_lies_beside_it(tmp_path, monkeypatch):
    from tests.test_own_code import METHOD, NETWORK, TERM

    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own"
    own.mkdir()
    files = {"its_method.py": METHOD, "its_nets.py": NETWORK, "its_terms.py": TERM, "other_nets.py": NETWORK}
    for name, text in (*files.items(), ("other_terms.py", TERM.replace("Near", "Far"))):
        (own / name).write_text(text, encoding="utf-8")
    (own / "mine.toml").write_text(
        '[recipe]\npair = "ministreet"\nmethod = "its_method.py:Sure"\nterms = ["its_terms.py:Near"]\n'
        '[network]\nnetwork = "its_nets.py:tiny"\n[terms.Near]\nweight = 0.25\n[rows.other]\n'
        'set = ["network=other_nets.py:tiny", "terms=other_terms.py:Far", "Far.weight=3"]\n', encoding="utf-8",
    )  # fmt: skip
    file = read_recipe(own / "mine.toml")
    other = row_recipe(file.rows[0], "ministreet", (), 0)
    assert other.network == "other_nets.py:tiny" and other.terms["other_terms.py:Far"].weight == 3
    found = file.recipe
    assert found.method == "its_method.py:Sure" and found.terms["its_terms.py:Near"].weight == 0.25
    assert found.network == "its_nets.py:tiny" and found.network_options == {}


HEAD = '[recipe]\npair = "ministreet"\nmethod = "proca"\n'


@pytest.mark.parametrize("text, words", [
    ("pair = ", "mine.toml is no TOML: .* `uda recipe show PAIR METHOD` writes a file to begin with"),
    ("x = 1", r"There is no table \[recipe\]"),
    ('[recipe]\npair = "ministreet"', r"The table \[recipe\] has no method"),
    ('[recipe]\npair = "ministret"\nmethod = "proca"', "Did you mean ministreet"),
    ('[recipe]\npair = "ministreet"\nmethod = "procca"', "There is no method 'procca'. Did you mean proca"),
    ('[recipe]\npair = "ministreet"\nmethod = "my_method.py:X"', "There is no file .*my_method.py, wanted as method"),
    (HEAD + "[optimizer]\nlr = 1", "There is no table 'optimizer'. Did you mean optimiser"),
    (HEAD + "[contrasst.loop]\nsteps = 1", "There is no table 'contrasst'. Did you mean contrast"),
    (HEAD + "[optimiser]\nlrr = 1", "There is no setting 'optimiser.lrr' in a run of proca. Did you mean lr"),
    (HEAD + "[contrast.optimiser]\nlrr = 1", "There is no setting 'optimiser.lrr'"),
    (HEAD + '[optimiser]\nlr = "fast"', "optimiser.lr=fast does not fit; optimiser.lr wants a number"),
    (HEAD + "[data]\nflip = 3", "data.flip=3 does not fit; data.flip wants yes or no"),
    (HEAD + "optimiser = 3", r"There is no key of \[recipe\] 'optimiser'"),
    (HEAD + "seeed = 3", r"There is no key of \[recipe\] 'seeed'. Did you mean seed"),
    (HEAD + "seed = true", r"seed in \[recipe\] is True; wanted int"),
    (HEAD + "rows = 3", r"There is no key of \[recipe\] 'rows'"),
    (HEAD + '[rows.a]\nmethods = "proca"', r"There is no key of \[rows.a\] 'methods'. Did you mean method"),
    (HEAD + "[bida]\nx = 1", "There is no table 'bida'"),
    ("optimiser = 3\n" + HEAD, "optimiser is 3; wanted a table"),
    (HEAD + "[method]\nlambda_fc = 1", "There is no setting 'method.lambda_fc'"),
], ids=lambda text: re.sub(r"\W+", " ", text)[-30:])  # fmt: skip
def test_a_mistake_is_an_error_that_names_it(text, words, tmp_path):
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    with pytest.raises((ValueError, OSError), match=words) as caught:
        read_recipe(tmp_path / "mine.toml")
    assert "mine.toml" in str(caught.value) or "my_method.py" in str(caught.value)


def test_stages_are_shown_where_they_differ():
    text = recipe_text("gta5_cityscapes", "bida")
    assert "[source.data]" in text and "[round.loop]" not in text and stages_of("gta5_cityscapes", "bida").keys() == {
        "source", "labels", "round",
    }  # fmt: skip
    assert "lr = 0.00025  # bida, published" in text.partition("[source.optimiser]")[2]
