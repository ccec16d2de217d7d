"""What the documents show works as typed: commands, options, links, the library's example."""

import ast
import importlib.util
import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer

from course_lib import cli
from course_lib.cli_labels import FewLabels
from course_lib.data.layouts import parse as parse_data
from course_lib.experiments.plan import plan
from course_lib.experiments.rows import ablation_rows, check_overrides, standard_rows
from course_lib.experiments.show import recipe_text
from course_lib.experiments.train import split_of
from course_lib.recipes import recipe as find_recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("benchmarks/**/*.md")])
PAGES = [page for page in PAGES if page.name != "CHANGELOG.md" and not page.parent.name.startswith(".")]  # it tells the past
each_page = pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])


# ---- the text of a page -----------------------------------------------------------------------------------------------


def blocks(text: str) -> list[str]:
    """The code blocks of a Markdown text, fenced and indented."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.M | re.S)
    return fenced + re.findall(r"(?:(?:^ {4}.*)\n)+", rest, re.M)


def typed(text: str) -> list[list[str]]:
    """The words after `uda` of every whole command in a page's code blocks, also of those started by torchrun."""
    found, lines = [], []
    for line in "\n".join(blocks(text)).replace("\\\n", " ").splitlines():
        lines += [part.strip() for part in line.split("; ")]
    for line in lines:
        if line.startswith("uda "):
            found.append(shlex.split(line, comments=True)[1:])
        elif line.startswith(("torchrun ", "python ")) and "-m course_lib " in line:
            words = shlex.split(line, comments=True)
            found.append(words[words.index("course_lib") + 1 :])
    return found


def inline(text: str) -> list[str]:
    """The code inside sentences and tables."""
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.M | re.S)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", rest)]


# ---- the commands -----------------------------------------------------------------------------------------------------


def leaves(command, path=()) -> dict:
    """path of words -> command, of every command that does something."""
    if not hasattr(command, "commands"):
        return {path: command}
    return {key: leaf for name, inner in command.commands.items() for key, leaf in leaves(inner, (*path, name)).items()}


def parse(words: list[str]) -> tuple[tuple[str, ...], dict]:
    """What the command line reads from the words, without running it: the command's path and the values of its options."""
    app = typer.main.get_command(cli.app)
    for path, leaf in leaves(app).items():
        leaf.callback = lambda path=path, **values: (path, values)
    return app.main(args=list(words), prog_name="uda", standalone_mode=False)


def check(words: list[str]) -> None:
    """Fail unless the command exists, its options exist and are complete, and its data, recipe and settings are known."""
    path, values = parse(words)
    for name in ("source", "target", "data", "validation", "spec"):
        if values.get(name):
            parse_data(split_of(values[name], "")[0])
    few = FewLabels(values.get("labels"))
    named = few.pair_name(values.get("recipe"), values.get("source"))
    settings = (*few.terms(values.get("source")), *(values.get("settings") or ()))
    if path == ("train",):
        alone = "ministreet_crops" if values["method"] == "simclr" else named
        pair, changes = cli._constants(values["recipe"] or alone, values["method"], stages=False)
        find_recipe(pair, values["method"]).override(*changes, *settings)
    elif path == ("run",):
        pair, changes = cli._constants(named, values["method"])
        stages = plan(pair, values["method"], (*changes, *settings))
        assert values["stage"] in (None, *(stage.name for stage in stages))
    elif path == ("compare",):
        pair, changes, own = cli._compared(named, values["methods"])
        check_overrides(standard_rows(pair, tuple(values["methods"] or ()), own), pair, (*changes, *settings))
    elif path == ("ablate",):
        check_overrides(ablation_rows(values["method"], named, values["like"].upper()), named, settings)
    elif path in (("evaluate",), ("predict",), ("label",), ("export",)):
        find_recipe("ministreet", "source-only").override(*settings)
    elif path == ("recipe", "show"):
        recipe_text(values["pair"], values["method"], settings)


SHOWN = [(page, words) for page in PAGES for words in typed(page.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def own_files(tmp_path_factory):
    """The files that docs/own_code.md shows, each named in its first line, and its recipe file."""
    folder = tmp_path_factory.mktemp("own")
    shown = blocks((ROOT / "docs" / "own_code.md").read_text(encoding="utf-8"))
    for block in shown:
        if found := re.match(r"# (\w+\.py)\n", block):
            (folder / found[1]).write_text(block, encoding="utf-8")
    rows = next(block for block in shown if block.startswith("[rows"))
    (folder / "sure.py").write_text((folder / "my_method.py").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "mine.toml").write_text(recipe_text("ministreet", "proca") + "\n" + rows, encoding="utf-8")
    return folder


@pytest.mark.parametrize("page, words", SHOWN, ids=[f"{page.name}: {' '.join(words)[:60]}" for page, words in SHOWN])
def test_a_command_that_is_shown_can_be_typed(page, words, own_files, monkeypatch):
    monkeypatch.chdir(own_files)
    check(words[: words.index(">")] if ">" in words else words)


def test_the_files_of_the_page_on_own_code_work(own_files, monkeypatch):
    """Three steps with its method, its term and its network; its row has a control."""
    from course_lib.data import ministreet
    from course_lib.experiments.parts import Pair
    from course_lib.experiments.recipe_file import read_recipe
    from course_lib.experiments.train import train_recipe
    from tests.test_own_code import SIZES

    monkeypatch.chdir(own_files)
    options = {"size": (32, 64), "workers": 1, "progress": False}
    ministreet.make("gta5", "game", 4, 1, **options)
    ministreet.make("cityscapes", "camera", 4, 2, **options)
    chosen = find_recipe("ministreet", "my_method.py:Sure").override(
        *SIZES, "network=my_nets.py:unet", "terms=+my_terms.py:Near", "steps=3", "select=last"
    )
    assert train_recipe(chosen, Pair("gta5:game", "cityscapes:camera"), "out", quiet=True).is_file()
    (row,) = read_recipe("mine.toml").rows
    assert row.name == "half the weight" and row.plan == "proca"


def test_a_subclass_of_a_papers_method_has_its_constants(own_files, monkeypatch):
    """Own and paper's row share a control, so that what is compared is the idea alone; and the step is another one."""
    from course_lib.experiments.rows import standard_rows

    monkeypatch.chdir(own_files)
    for pair in ("ministreet_few_labels", "cityscapes_few_labels"):
        own, papers = (find_recipe(pair, method).to_dict() for method in ("my_classmix.py", "classmix"))
        assert own.pop("method") != papers.pop("method") and own == papers
    rows = {row.name: row for row in standard_rows("ministreet_few_labels", ("my_classmix.py", "classmix"))}
    assert rows["my_classmix.py:Mine"].control == rows["classmix"].control == "supervised, 2.33 x compute, augmented"


def test_the_commands_of_the_pages_are_found():
    assert len(typed(README)) == 10 + 3 + 1  # the command line in ten lines; few labels; without make: uda demo
    shown = {parse(words)[0] for words in typed(COMMANDS)}
    named = {tuple(code.split()[1:]) for code in inline(COMMANDS) if re.fullmatch(r"uda [a-z]+( [a-z]+)?", code)}
    assert {path for path in leaves(typer.main.get_command(cli.app)) if path not in shown} == {("demo",)}
    assert set(leaves(typer.main.get_command(cli.app))) <= named, "docs/commands.md lists every command"


@pytest.mark.parametrize(
    "line, error",
    [
        ("train adaptsegnet --source gta5:a --target cityscapes:b --ot x", "--ot"),
        ("train adaptsegnet --source gta5:a --target cityscapes:b", "Missing parameter: out"),
        ("train adaptsegnet --source gta5:a --target cityscapes:b --out x --set stepz=1", "stepz"),
        ("train adaptsegnet --source gta6:a --target cityscapes:b --out x", "gta6"),
        ("run proca --recipe gta5_citiscapes --plan", "gta5_citiscapes"),
        ("run proca --plan --set contrast.stepz=1", "stepz"),
        ("ablate procca", "procca"),
        ("compare adaptsegnett --source gta5:a --target cityscapes:b --out x", "adaptsegnett"),
        ("compare --source gta5:a --target cityscapes:b --out x --set stepz=1", "stepz"),
        ("train source-only --source gta5:a --target cityscapes:b --out x --set lambda_feat=1", "proca has it"),
        ("recipe show ministreet bidda", "bidda"),
        ("trian adaptsegnet", "trian"),
    ],
)
def test_a_wrong_command_is_found(line, error):
    with pytest.raises(Exception, match=error):
        check(line.split())


@each_page
def test_options_in_sentences_exist(page):
    every = leaves(typer.main.get_command(cli.app))
    options = {path: {option for each in leaf.params for option in each.opts} | {"--help"} for path, leaf in every.items()}
    anywhere = set().union(*options.values(), {"--debug", "--version"})
    for code in inline(page.read_text(encoding="utf-8")):
        named = set(re.findall(r"(?<!\S)--[a-z][\w-]*", code))
        if code.startswith("uda "):
            words = tuple(re.match(r"uda((?: [a-z]+)*)", code)[1].split())
            paths = [path for path in every if words[: len(path)] == path or path[: len(words)] == words]
            assert paths or words == ("data",), f"{code}: there is no such command"
            named -= set().union(*(options[path] for path in paths), {"--debug", "--version"})
            assert not named, f"{code}: no such option"
        elif code.startswith("--") and "benchmarks" not in page.parts:
            assert named <= anywhere | {"--rdzv-endpoint"}, f"{code}: no command has this option"


@each_page
def test_modules_and_targets_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"python3? -m ([\w.]+)", text):
        assert importlib.util.find_spec(module) is not None, f"python -m {module}"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line for block in blocks(text) for line in block.splitlines()]
    for target in [re.match(r"make ([a-z]+)\b", code)[1] for code in inline(text) + lines if re.match(r"make [a-z]+\b", code)]:
        assert re.search(rf"^{target}:", makefile, re.M), f"make {target}"


# ---- links and sizes --------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The names by which links reach a page's headings."""
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def markdown_of(page: Path) -> str:
    """The text of a page, or of a notebook's Markdown cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def broken_links(page: Path, text: str) -> list[str]:
    """Links and pictures of a page that lead to no file, or to no heading of it."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```\w*\n.*?^```", "", text, flags=re.M | re.S)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, heading = link.partition("#")
        goal = page.parent / name if name else page
        if not goal.exists() or (heading and heading not in anchors(markdown_of(goal))):
            broken.append(link)
    return broken


@each_page
def test_links_lead_somewhere(page):
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_found():
    text = "[a](docs/gone.md) ![b](docs/commands.md) [c](docs/commands.md#gone) [d](docs/commands.md#compare-methods)"
    assert broken_links(ROOT / "README.md", text) == ["docs/gone.md", "docs/commands.md#gone"]


def test_the_first_page_is_short_and_says_what_was_measured():
    assert len(README.splitlines()) <= 150
    words = " ".join(README.split())
    results = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    for part in ("measured on CPUs, with MiniStreet and a part of CamVid.", "Nothing was trained on", "nothing ran on a GPU."):
        assert part in words and part in results
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"(notebooks/{notebook.name})" in README
    for folder in sorted(path.name for path in (ROOT / "course_lib").iterdir() if (path / "__init__.py").is_file()):
        assert f"`{folder}/`" in README, "the table of layers"
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in README + COMMANDS, f"no page leads to docs/{page.name}"


def test_the_example_of_the_library_runs_as_a_script(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    *imports, guarded = ast.parse(example).body
    assert all(isinstance(line, ast.ImportFrom) for line in imports), "a started process imports the file: no work outside"
    assert ast.unparse(guarded).startswith("if __name__ == '__main__':")
    shallow = example.replace('form="adaptsegnet")', 'form="adaptsegnet", blocks=(1, 1, 1, 1))')  # ResNet-101 takes long
    assert shallow != example
    (tmp_path / "example.py").write_text(shallow, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path("example.py", run_name="__main__")
    printed = capsys.readouterr().out
    assert "mIoU-19" in printed and "4 images" in printed


# ---- the glossary -----------------------------------------------------------------------------------------------------


def test_each_term_of_the_glossary_has_a_korean_column_and_its_first_notebook():
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| \[(\d\d)\]\(\.\./notebooks/(.+?)\) \|$", page, re.M)
    assert len(rows) >= 50 and len({row[0] for row in rows}) == len(rows)
    books = {}
    for path in sorted((ROOT / "notebooks").glob("0[1-9]*.ipynb")):  # 00 is the map
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown").lower()
        books[path.name] = re.sub(r"\]\([^)]*\)", "]", text)  # what a link says, not where it leads
    for english, korean, meaning, number, name in rows:
        first = next(book for book, text in books.items() if re.search(rf"\b{re.escape(english.lower())}", text))
        assert (first, first[:2]) == (name, number), english
        assert meaning and (re.search("[가-힣]", korean) or korean == english), english
