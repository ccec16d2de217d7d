"""Which files of the repository are pages of the site, and the pages that are made from its code.

A page has the path that its file has in the repository, so that the links of README.md, docs/ and notebooks/ lead to the same
pages here as they do on GitHub and in JupyterLab. `place` says where a link leads whose file is no page of its own:

    course_lib/losses/nt_xent.py    the page of the module, api/course_lib/losses/nt_xent.md
    tests/losses/test_nt_xent.py    a page with the file's text, files/tests/losses/test_nt_xent.py.md
    benchmarks/results/x.json       a copy of the file
    tests/data                      a page with the folder's files, or its README.md
"""

import ast
import json
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from docstrings import escaped, markdown

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "course_lib"
PAGES = ("*.md", "docs/*.md", "benchmarks/*.md", "benchmarks/results/*.md", "data_scripts/*.md", "notebooks/*.ipynb",
         "notebooks/solutions/*.ipynb", "course_lib/experiments/starts/*.md")  # fmt: skip
COPIED = {".json", ".png", ".jpg", ".svg", ".toml", ".csv"}
LANGUAGES = {".py": "python", ".sh": "bash", ".lock": "text", "": "text"}
LINK = re.compile(r"(?<!\\)\]\(\s*<?([^)\s>]+)")


def sources(root: Path = ROOT) -> list[str]:
    """The repository's files that are pages, as paths from its root."""
    return sorted({file.relative_to(root).as_posix() for pattern in PAGES for file in root.glob(pattern)})


def modules(root: Path = ROOT) -> list[str]:
    """The library's files that have a page: all but those whose name begins with an underscore, packages with `__init__.py`."""
    files = (file.relative_to(root) for file in (root / PACKAGE).rglob("*.py"))
    return sorted(path.as_posix() for path in files if path.name == "__init__.py" or not path.name.startswith("_"))


def module_page(path: str) -> str:
    """course_lib/losses/nt_xent.py -> api/course_lib/losses/nt_xent.md, a package -> its index.md."""
    return "api/" + path.removesuffix("__init__.py").rstrip("/").removesuffix(".py") + (
        "/index.md" if path.endswith("__init__.py") else ".md"
    )


def place(path: str, root: Path = ROOT) -> str:
    """The page or file of the site for a path of the repository (a file, or a folder); the path itself where it has its own."""
    full = root / path
    if path in sources(root):
        return path
    if full.is_dir():
        if (full / "__init__.py").is_file() and path.split("/")[0] == PACKAGE:
            return module_page(f"{path}/__init__.py")
        return f"{path}/README.md" if f"{path}/README.md" in sources(root) else f"files/{path}/index.md"
    if path in modules(root):
        return module_page(path)
    return path if full.suffix in COPIED else f"files/{path}.md"


def targets(path: str, root: Path = ROOT) -> set[str]:
    """The paths of the repository that a page links to, whether they exist or not."""
    text = (root / path).read_text(encoding="utf-8")
    if path.endswith(".ipynb"):
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    links = (unquote(link.partition("#")[0]) for link in LINK.findall(text) if not re.match(r"[a-z]+:|#", link))
    return {posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) for link in links}


# ---- the texts of made pages -------------------------------------------------------------------------------------------


def first_line(file: Path) -> str:
    """What a module is for, from its docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def exported(file: Path) -> list[str]:
    """Full names of what a package hands on from its modules."""
    found = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            found += [f"{node.module}.{name.name}" for name in node.names if not name.name.startswith("_")]
    return sorted(found, key=lambda name: name.rpartition(".")[2].lower())


def own_names(file: Path) -> list[str]:
    """Public names that a package defines itself: what it imports is shown where it is defined."""
    names = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            goals = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [goal.id for goal in goals if isinstance(goal, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def module_text(path: str, root: Path = ROOT) -> str:
    """The page of a module; that of a package has a table of its modules and the names that it hands on."""
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    # what the notebooks share has the names of what it explains: the search shows it after that
    head = "---\nsearch: {boost: 0.5}\n---\n" if name.startswith(f"{PACKAGE}.classroom") else ""
    if not path.endswith("__init__.py"):
        return f"{head}::: {name}\n"
    folder, own = (root / path).parent, own_names(root / path)
    parts = [f"{head}::: {name}\n    options:\n      members: {json.dumps(own) if own else 'false'}\n"]
    parts += [covered_text(root / path, each, name) for each in own if (folder / f"{each}.py").is_file()]
    inner = [each for each in modules(root) if (root / each).parent == folder and each != path]
    inner += [each for each in modules(root) if (root / each).parent.parent == folder and each.endswith("__init__.py")]
    rows = []
    for each in sorted(inner):
        link = posixpath.relpath(module_page(each), posixpath.dirname(module_page(path)))
        label = each.removesuffix(".py").removesuffix("/__init__").rpartition("/")[2]
        rows.append(f"| [`{label}`]({link}) | {escaped(first_line(root / each))} |\n")
    if rows:
        parts.append("\n| module | is |\n|---|---|\n" + "".join(rows))
    if names := exported(root / path):
        links = ", ".join(f"[`{name.rpartition('.')[2]}`][{name}]" for name in names)
        parts.append(f"\nImported from the package itself: {links}.\n")
    return "".join(parts)


def covered_text(file: Path, function: str, package: str) -> str:
    """The section of a package's function that has the name of one of its modules: griffe sees the module alone."""
    (node,) = [each for each in ast.parse(file.read_text(encoding="utf-8")).body if getattr(each, "name", "") == function]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    head = f"\n## `{package}.{function}` {{#{package}.{function}-function}}\n"
    signature = f"\n```python\n{function}({ast.unparse(node.args)}){returns}\n```\n"
    return f"{head}{signature}\n{markdown(ast.get_docstring(node) or '')}\n"


def file_text(path: str, root: Path = ROOT) -> str:
    """A page with the text of a file, not in the search: its own page or its tests' names are."""
    text = (root / path).read_text(encoding="utf-8")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    language = LANGUAGES.get(Path(path).suffix, "text")
    return f"---\nsearch: {{exclude: true}}\n---\n# {escaped(path)}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def folder_text(path: str, there: list[str]) -> str:
    """A page with the links of a folder's files."""
    here = f"files/{path}"
    lines = [f"- [{escaped(each.rpartition('/')[2])}]({posixpath.relpath(place(each), here)})\n" for each in there]
    return f"---\nsearch: {{exclude: true}}\n---\n# {escaped(path)}\n\n" + "".join(lines)


def made_pages(root: Path = ROOT) -> dict[str, str]:
    """{path of the site: its Markdown} of all pages that no file of the repository is."""
    pages = {module_page(path): module_text(path, root) for path in modules(root)}
    asked = {target for path in sources(root) for target in targets(path, root)} | {"notebooks/solutions"}
    while asked:
        path = asked.pop()
        page = place(path, root)
        if page in pages or not page.startswith("files/") or not (root / path).exists():
            continue  # a link to a file that does not exist is reported with the page that has it
        if (root / path).is_dir():
            there = sorted(each.relative_to(root).as_posix() for each in (root / path).iterdir()
                           if each.is_file() and not each.name.startswith(("_", ".")))  # fmt: skip
            asked |= set(there)
            pages[page] = folder_text(path, there)
        else:
            pages[page] = file_text(path, root)
    return pages


def copied(root: Path = ROOT) -> set[str]:
    """The files of the repository that are in the site as they are: pictures and data that pages link to."""
    asked = {target for path in sources(root) for target in targets(path, root)}
    asked |= {each for target in asked if (root / target).is_dir() for each in
              (file.relative_to(root).as_posix() for file in (root / target).iterdir() if file.is_file())}  # fmt: skip
    return {path for path in asked if (root / path).is_file() and Path(path).suffix in COPIED}


# ---- the navigation ----------------------------------------------------------------------------------------------------


def module_tree(package: str, root: Path = ROOT) -> list:
    """The navigation of a package: its own page, its modules, its packages."""
    pages = [module_page(f"{package}/__init__.py")]
    for path in modules(root):
        parent, _, name = path.rpartition("/")
        if parent == package and name != "__init__.py":
            pages.append({name.removesuffix(".py"): module_page(path)})
        elif name == "__init__.py" and parent.rpartition("/")[0] == package:
            pages.append({parent.rpartition("/")[2]: module_tree(parent, root)})
    return [pages[0], *sorted(pages[1:], key=lambda item: next(iter(item)))]


def filled(nav: list, root: Path = ROOT) -> list:
    """The navigation of mkdocs.yml with the contents of its folders."""
    result = []
    for item in nav:
        title, value = next(iter(item.items())) if isinstance(item, dict) else ("", item)
        if isinstance(value, list):
            value = filled(value, root)
        elif value == "api/":
            value = module_tree(PACKAGE, root)
        elif value.endswith("/"):
            value = [path for path in sources(root) if path.rpartition("/")[0] == value.rstrip("/")]
        result += [{title: value}] if title else value if isinstance(value, list) else [value]
    return result
