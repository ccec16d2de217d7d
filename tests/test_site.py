"""The site: its navigation, its links, docstrings of all public names; and, where mkdocs is installed, the built pages."""

import ast
import html
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import course_lib

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "docs" / "site"
MKDOCS = (SITE / "mkdocs.yml").read_text(encoding="utf-8")
PYTHON = next((path for path in (ROOT / ".venv-docs" / "bin" / "python", ROOT / ".venv-docs" / "Scripts" / "python.exe")
               if path.is_file()), None)  # fmt: skip


@pytest.fixture(scope="module")
def tools():
    """The files of docs/site/ that need no mkdocs."""
    before = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(SITE))
    names = ("content", "docstrings", "links", "notebooks")
    assert not set(names) & set(sys.modules)
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path[:] = before[0]
        for name in names:
            sys.modules.pop(name, None)


# ---- public names ------------------------------------------------------------------------------------------------------

# The version of MiniStreet's pictures is a checksum of these files: a docstring would draw everybody's pictures once more.
DRAWING = "course_lib/data/ministreet/"
# What torch calls; the docstring of the class describes it. `forward`: where that has shapes.
OF_TORCH = {"extra_repr", "train", "step"}
SHAPE = re.compile(r"\(N|\(\.\.\.|F_1|image ->")


def described(owner: type | None, name: str) -> bool:
    """Whether a class of the library that this one builds on has a method of this name, with a docstring."""
    bases = owner.__mro__[1:] if owner else ()
    found = [base.__dict__[name] for base in bases if base.__module__.startswith("course_lib") and name in base.__dict__]
    return any(inspect.getdoc(getattr(each, "fget", None) or getattr(each, "__func__", each)) for each in found)


def without_docstring(text: str, module: str) -> list[str]:
    """Public names of a module that have none: modules, classes, functions and methods whose names, and those of the classes
    around them, begin with no underscore. What a module imports is described where it is defined.
    """
    tree, missing = ast.parse(text), []
    if not ast.get_docstring(tree):
        missing.append(module)

    def look(node: ast.Module | ast.ClassDef, path: tuple[str, ...]) -> None:
        for inner in node.body:
            if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or inner.name.startswith("_"):
                continue
            own = (*path, inner.name)
            if not ast.get_docstring(inner) and not (path and excused(node, path, inner.name)):
                missing.append(".".join((module, *own)))
            if isinstance(inner, ast.ClassDef):
                look(inner, own)

    def excused(node: ast.ClassDef, path: tuple[str, ...], name: str) -> bool:
        if name in OF_TORCH or (name == "forward" and SHAPE.search(ast.get_docstring(node) or "")):
            return True
        owner = importlib.import_module(module)
        for part in path:
            owner = getattr(owner, part)
        return described(owner, name)

    look(tree, ())
    return missing


@pytest.mark.parametrize("folder", sorted({path.parent.relative_to(ROOT).as_posix() for path in
                                           Path(course_lib.__file__).parent.rglob("*.py")}))  # fmt: skip
def test_every_public_name_has_a_docstring(folder):
    missing = []
    for file in sorted((ROOT / folder).glob("*.py")):
        module = file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        if module != "course_lib.__main__":
            missing += without_docstring(file.read_text(encoding="utf-8"), module)
    if f"{folder}/".startswith(DRAWING):
        assert len(missing) <= 25, "describe new names of the drawing code"
    else:
        assert missing == []


def test_a_name_without_a_docstring_is_found():
    text = '"""M."""\ndef a(): ...\nclass B:\n    """B."""\n    def c(self): ...\n    def _d(self): ...\n'
    text += "class _E:\n    def f(self): ...\n"
    # a module that exists, whose classes have no B: `c` is looked for in the bases of a class
    with pytest.raises(AttributeError, match="B"):
        without_docstring(text, "course_lib.masks")
    assert without_docstring(text.replace("    def c(self): ...\n", ""), "course_lib.masks") == ["course_lib.masks.a"]
    assert without_docstring("def a():\n    'A.'\n", "course_lib.masks") == ["course_lib.masks"]


def test_an_overriding_method_is_described_by_the_one_that_it_overrides():
    from course_lib.methods.dacs import DACS
    from course_lib.networks.resnet import Bottleneck

    assert described(DACS, "losses") and not described(DACS, "recoloured")
    assert not described(Bottleneck, "forward"), "torch's own words say nothing of shapes"


# ---- navigation and addresses ------------------------------------------------------------------------------------------


def named(nav) -> list[str]:
    """The pages of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    return [page for item in (nav.values() if isinstance(nav, dict) else nav) for page in named(item)]


@pytest.fixture(scope="module")
def nav(tools) -> list[str]:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML to read docs/site/mkdocs.yml")
    return named(tools["content"].filled(yaml.safe_load(MKDOCS)["nav"]))


def test_the_navigation_has_every_page_once(tools, nav):
    content = tools["content"]
    assert sorted(nav) == sorted([*content.sources(), *map(content.module_page, content.modules())])
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/**/*.ipynb"), ROOT / "README.md", ROOT / "benchmarks/ledger.md"]
    for page in pages:
        if ".ipynb_checkpoints" not in page.parts:
            assert page.relative_to(ROOT).as_posix() in nav


def test_every_module_of_the_library_has_a_page(tools):
    content, package = tools["content"], Path(course_lib.__file__).parent
    files = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py")}
    assert set(content.modules()) == files - {"course_lib/__main__.py"}
    assert content.module_page("course_lib/losses/nt_xent.py") == "api/course_lib/losses/nt_xent.md"
    assert content.module_page("course_lib/losses/__init__.py") == "api/course_lib/losses/index.md"
    assert "[`nt_xent`][course_lib.losses.nt_xent.nt_xent]" in content.module_text("course_lib/losses/__init__.py")


def test_the_site_asks_no_other_computer():
    texts = {path.name: path.read_text(encoding="utf-8") for path in [SITE / "mkdocs.yml", *(SITE / "static").iterdir()]}
    assert {name: found for name, text in texts.items() if (found := re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text))} == {}
    for line in ("strict: true", "  font: false", "use_directory_urls: false", "  offline: {}", "polyfills: [iframe-worker.js]",
                 "custom_mathjax_url: none", "execute: false"):  # fmt: skip
        assert line in MKDOCS


# ---- links -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path, place", [
    ("README.md", "README.md"),
    ("notebooks/01_domain_gap.ipynb", "notebooks/01_domain_gap.ipynb"),
    ("course_lib/losses/nt_xent.py", "api/course_lib/losses/nt_xent.md"),
    ("course_lib/recipes/papers", "api/course_lib/recipes/papers/index.md"),
    ("tests/test_masks.py", "files/tests/test_masks.py.md"),
    ("tests/data", "files/tests/data/index.md"),
    ("benchmarks/results/camvid_dusk.json", "benchmarks/results/camvid_dusk.json"),
    ("benchmarks", "benchmarks/README.md"),
])  # fmt: skip
def test_where_a_link_of_the_repository_leads(tools, path, place):
    assert tools["content"].place(path) == place


def test_links_of_a_page_are_rewritten_and_code_is_not(tools):
    text = "[a](../course_lib/masks.py) `[b](../course_lib/masks.py)` [c](own_data.md#x) [d](https://e.org) [f](gone.py)\n"
    text += "```\n[g](../course_lib/masks.py)\n```\n[h](../tests/data)\n"
    assert tools["links"].in_markdown(text, "docs/commands.md") == text.replace(
        "[a](../course_lib/masks.py)", "[a](../api/course_lib/masks.md)"
    ).replace("[h](../tests/data)", "[h](../files/tests/data/index.md)")
    link = '<a class="x" href="../course_lib/masks.py#M">'
    found = tools["links"].in_html(link, "notebooks/01.ipynb", lambda path: f"URL:{path}")
    assert found == '<a class="x" href="URL:api/course_lib/masks.md#M">'


def test_a_wrong_link_of_a_built_site_is_found(tools, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.html").write_text('<h1 id="there">B</h1><a href="../index.html">', encoding="utf-8")
    good = '<a href="a/b.html#there"><a href=a/b.html><a href="#own"><p id=own><a href="https://e.org/x"><a href="mailto:x@y">'
    (tmp_path / "index.html").write_text(good, encoding="utf-8")
    assert tools["links"].wrong_links(tmp_path) == []
    bad = '<a href="a/gone.html"><a href="a/b.html#gone"><img alt="x" src="x.png"><script src="https://cdn.org/x.js"></script>'
    (tmp_path / "index.html").write_text(good + bad, encoding="utf-8")
    assert tools["links"].wrong_links(tmp_path) == [
        "index.html: loads https://cdn.org/x.js", "index.html: a/b.html#gone exists, without a place of this name",
        "index.html: a/gone.html does not exist", "index.html: x.png does not exist",
    ]  # fmt: skip


# ---- docstrings and notebooks as pages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("docstring, markdown", [
    ("x_i * y_i < 2,\nand `a_b`.", r"x\_i \* y\_i &lt; 2, and `a_b`."),
    ("Mean:\n\n    m = 1/N sum_i x_i\n    v = 0", "Mean:\n\n```text\nm = 1/N sum_i x_i\nv = 0\n```"),
    (">>> f(1)\n2", "```pycon\n>>> f(1)\n2\n```"),
    ("x (N, D): what it reads,\n    in rows.\ny: a label.", "- x (N, D): what it reads, in rows.\n- y: a label."),
    ("Letters: N, D; the\nrest: none.", "Letters: N, D; the rest: none."),
    ("Raises:\n    ValueError: for x.", "Raises: ValueError: for x."),
    ("1. not a list", r"\1. not a list"),
])  # fmt: skip
def test_a_docstring_is_shown_as_it_is_written(tools, docstring, markdown):
    assert tools["docstrings"].markdown(docstring) == markdown.replace(r"\1.", "\\1.")


def test_every_word_of_every_docstring_is_shown(tools):
    """Nothing is lost on the way to Markdown, and no character of it is markup."""
    turn, words = tools["docstrings"].markdown, re.compile(r"\w+")
    for file in sorted(Path(course_lib.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                parts = re.split(r"^```(?:text|pycon)?$", turn(text), flags=re.M)
                shown = [part if n % 2 else html.unescape(re.sub(r"</?code>|\\(?=\W|_|\d+[.)])", "", part))
                         for n, part in enumerate(parts)]  # fmt: skip
                assert words.findall("".join(shown)) == words.findall(text), f"{file.name}: {text[:60]}"


def test_comments_of_settings_are_read(tools):
    found = tools["docstrings"].comments(ROOT / "course_lib" / "methods" / "dacs.py")
    assert any(text.startswith("[code]") for text in found.values())


def test_a_notebook_keeps_its_cells_and_loses_the_scripts(tools):
    code = '<div class="highlight-ipynb hl-python"><pre><span></span>a = "$b$ $c$"</pre></div>'
    cell = f'<div class="jp-Cell jp-CodeCell">{code}<div id="cell-1" class="clipboard-copy-txt">a = 1</div></div>'
    page = f'<script src="https://cdn.org/mathjax.js"></script><style>x</style><div class="jupyter-wrapper">{cell}</div>'
    kept = tools["notebooks"].in_site_style(page + "<!-- jupyter-wrapper --><style>y</style>")
    assert kept.count("<pre><code>a = \"$b$ $c$\"</code></pre>") == 1
    assert not any(word in kept for word in ("script", "style", "clipboard"))
    heads = '<h1 id="a">A<a class="anchor-link" href="#a">¶</a></h1>'
    heads += '<h2 id="">한국어 요약<a class="anchor-link" href="#">¶</a></h2>'
    changed, contents = tools["notebooks"].contents(heads)
    assert contents[0]["name"] == "A" and contents[0]["children"][0]["id"] == "한국어-요약"
    assert 'id="한국어-요약"' in changed and "anchor-link" not in changed


# ---- the whole site ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    if PYTHON is None:
        pytest.skip("mkdocs is not installed: make site")
    out = tmp_path_factory.mktemp("site")
    command = [PYTHON, "-m", "mkdocs", "build", "--config-file", SITE / "mkdocs.yml", "--site-dir", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", cwd=ROOT,
                          env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONUTF8": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING" not in done.stderr
    return out


@pytest.mark.full
def test_the_site_is_built_without_a_warning_and_complete(built, tools):
    """Strict, with the links checked (docs/site/hooks.py); each public function and class has its place."""
    content = tools["content"]
    for path in content.sources():
        page = built / re.sub(r"README$", "index", path.rpartition(".")[0])
        assert page.with_name(page.name + ".html").is_file(), path
    for path in content.modules():
        page = (built / content.module_page(path)).with_suffix(".html").read_text(encoding="utf-8")
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert f'id="{module}.{node.name}"' in page or f'id="{module}.{node.name}-function"' in page, node.name


@pytest.mark.full
def test_notebooks_have_equations_korean_and_pictures_and_load_nothing(built):
    for source in sorted((ROOT / "notebooks").glob("0*.ipynb")):
        page = (built / "notebooks" / source.with_suffix(".html").name).read_text(encoding="utf-8")
        cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", ())]
        pictures = sum("image/png" in output.get("data", {}) for output in outputs)
        assert page.count("data:image/png;base64,") >= pictures
        assert "한국어" in page and not re.search(r"<script[^>]* src=.https?:|mathjax", page, re.I)
    assert "<math" in page and r"\tag" not in page


@pytest.mark.full
def test_letters_and_signs_of_equations_are_drawn(built):
    """The letters of other alphabets by their own characters, primes once raised, the number of an equation beside it."""
    page = (built / "notebooks" / "05_bida.html").read_text(encoding="utf-8")
    assert "\N{MATHEMATICAL SCRIPT CAPITAL T}" in page and '<mo lspace="0" rspace="0">&#x02032;</mo>' in page
    assert re.search(r'<span class="equation"><math .*?</math><span>\(6\)</span></span>', page, re.S)
    every = "".join(path.read_text(encoding="utf-8") for path in (built / "notebooks").glob("*.html"))
    assert not re.search(r'mathvariant="(?!normal)', every)


@pytest.mark.full
def test_korean_and_names_are_in_the_search(built):
    index = json.loads((built / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert index["config"]["lang"] == ["en", "ko"]
    texts = {entry["location"]: entry["title"] + entry["text"] for entry in index["docs"]}
    assert any("노트북" in text for text in texts.values()) and not any("files/" in place[:6] for place in texts)
    assert "api/course_lib/losses/nt_xent.html#course_lib.losses.nt_xent.nt_xent" in texts
    assert (built / "assets" / "javascripts" / "lunr" / "min" / "lunr.ko.min.js").is_file()
    assert (built / "search" / "search_index.js").is_file(), "for pages that are opened from a folder"
