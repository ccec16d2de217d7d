"""Code from outside this library: a user's methods, terms and networks, imported only where the user names them.

    my_method.py:ColourTransfer      a file, and a class or function in it; the name alone may be left out where there is one
    package.module:ColourTransfer    a module that Python can import, also from the working folder
    NAME                             an entry point of an installed package, of the group course_lib.methods, ...

Recipes, result files and checkpoints keep a short name: that of the file without its folder, "my_method.py:ColourTransfer".
Reading them imports nothing: a name is known only after `load` in the same process, so a file from somebody else cannot run
code. Checkpoints keep the SHA-256 of the files as well; a changed file is found by it. Only the named file is hashed, not what
it imports.
"""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import Any

from course_lib.files import open_regular
from course_lib.terminal import shown


@dataclass(frozen=True)
class Code:
    """One class or function that was loaded."""

    kind: str  # method, term or network
    name: str  # in recipes and checkpoints
    text: str | None  # with which another process can load it; None: a class of a script or a notebook
    sha256: str  # of its file
    object: Any


LOADED: dict[tuple[str, str], Code] = {}  # by kind and name: what was named in this process


def is_reference(text: str) -> bool:
    """Whether a text names code in a file or a module.

    >>> is_reference("my_method.py"), is_reference("package.module:Class"), is_reference("small")
    (True, True, False)
    """
    return text.endswith(".py") or ":" in text


def short(name: str) -> str:
    """The class or function of a reference: what logs and sections call a term.

    >>> short("my_terms.py:Mine"), short("mine")
    ('Mine', 'mine')
    """
    return name.rpartition(":")[2]


def load(text: str | type | Callable, kind: str, base: type | None, near: Path | None = None) -> Code:
    """Import the code that `text` names, or take a class or function itself; a file that has changed is read again.

    kind: "method", "term" or "network"; its entry points are those of the group course_lib.KINDs. base: the class that it has
    to be a subclass of; None: anything that can be called. near: a folder in which files are looked for after the working
    folder, for example that of a recipe file.

    Raises:
        ValueError: naming the file, for one that raises, lacks the name, has several that it may mean, or something else under
            it; for two files of one name in one process. FileNotFoundError, ImportError: for what is not there.
    """
    if not isinstance(text, str):
        code = _given(text, kind)
    elif text.endswith(".py") or text.rpartition(":")[0].endswith(".py"):
        code = _from_file(text, kind, base, near)
    elif ":" in text:
        code = _from_module(text, kind, base)
    else:
        code = _from_entry_point(text, kind)
    _check(code, base)
    before = LOADED.get((kind, code.name))
    if before is not None and before.text is not None and code.text is not None and before.text != code.text:
        raise ValueError(
            f"{shown(before.text)} and {shown(code.text)} have one name in recipes, {shown(code.name)}. Rename one of the "
            "files."
        )
    LOADED[kind, code.name] = code
    return code


def not_loaded(name: str, kind: str) -> str:
    """What an error says of code that a recipe or a checkpoint names and nobody has loaded."""
    text = f"PATH/{name}" if name.rpartition(":")[0].endswith(".py") else name  # a module and an entry point have no path
    option, function = {
        "method": (f"as METHOD, {text}", "methods.load_method"),
        "term": (f"--set terms=+{text}", "methods.terms.load_term"),
        "network": (f"--set network={text}", "networks.load_builder"),
    }[kind]
    return (
        f"The {kind} {shown(name)} is code from outside this library, which no checkpoint and no recipe may import by itself. "
        f"If you trust it, name it: {shown(option)}; in Python: course_lib.{function}('{shown(text)}')."
    )


def hashes(names: Iterable[tuple[str, str]]) -> dict[str, str]:
    """{name: SHA-256} of those (kind, name) that come from outside, for a checkpoint."""
    return {name: LOADED[kind, name].sha256 for kind, name in names if (kind, name) in LOADED}


def changed(was: dict[str, str], now: dict[str, str]) -> list[str]:
    """The names whose file had another hash."""
    return [name for name in now if was.get(name, now[name]) != now[name]]


def loaded() -> list[tuple[str, str]]:
    """(kind, text) of all that was loaded, for `load_again` in another process."""
    if alone := [code.name for code in LOADED.values() if code.text is None]:
        raise ValueError(
            f"Other processes cannot import {', '.join(map(shown, alone))}: it was defined in a script or a notebook. Put it "
            "into a file and give 'FILE.py:NAME', or train with jobs=1."
        )
    return [(code.kind, code.text) for code in LOADED.values()]


def entry_point_names(kind: str) -> list[str]:
    """What installed packages offer, not imported."""
    return sorted(point.name for point in entry_points(group=f"course_lib.{kind}s"))


# ---- where it is


def _given(value: Any, kind: str) -> Code:
    """A class or function itself."""
    module, name = value.__module__, value.__qualname__
    try:
        sha256 = hashlib.sha256(inspect.getsource(value).encode()).hexdigest()
    except (OSError, TypeError):  # typed at a prompt
        sha256 = ""
    elsewhere = None if module == "__main__" or "<locals>" in name else f"{module}:{name}"
    return Code(kind, f"{module}:{name}", elsewhere, sha256, value)


def _from_file(text: str, kind: str, base: type | None, near: Path | None) -> Code:
    file, name = (text, "") if text.endswith(".py") else (text.rpartition(":")[0], text.rpartition(":")[2])
    path = Path(file).expanduser()
    if near is not None and not path.exists() and not path.is_absolute():
        path = near / path
    if not path.exists():
        if (kind, text) in LOADED:  # by its name in recipes, after its path was given
            return LOADED[kind, text]
        raise FileNotFoundError(f"There is no file {shown(path)}, wanted as {kind}. Give its path from the working folder.")
    path = path.resolve()
    with open_regular(path) as opened:
        source = opened.read()
    module, sha256 = _execute(path, source)
    name, value = _named(module, name, kind, base, shown(path))
    return Code(kind, f"{path.name}:{name}", f"{path}:{name}", sha256, value)


def _execute(path: Path, source: bytes) -> tuple[ModuleType, str]:
    """The module of a file; what is hashed is what runs: no bytecode of an earlier file is used, none is written."""
    sha256 = hashlib.sha256(source).hexdigest()
    # the same in every process, so that pickled settings find their class
    name = f"_outside_{path.stem}_{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:8]}"
    if name in sys.modules and sys.modules[name].__sha256__ == sha256:
        return sys.modules[name], sha256
    module = ModuleType(name)
    module.__file__, module.__sha256__ = str(path), sha256
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for the modules beside it
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except BaseException as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            raise
        raise ValueError(
            f"{shown(path)} raised {type(error).__name__}{_line(error, path)} when it was imported: {shown(error)}. Correct "
            "the file; `python FILE` shows where."
        ) from error
    return module, sha256


def place(error: BaseException) -> str:
    """Where an error passed code from outside the library, for the end of its message: " (my_method.py, line 12)"; or "".

    An error of another process has its place along (`course_lib.engine.pool`).
    """
    if known := getattr(error, "place", ""):
        return known
    modules = {getattr(code.object, "__module__", None) for code in LOADED.values()} - {None}
    passed = [(f.f_code.co_filename, n) for f, n in walk_tb(error.__traceback__) if f.f_globals.get("__name__") in modules]
    return f" ({shown(Path(passed[-1][0]).name)}, line {passed[-1][1]})" if passed else ""


def _line(error: BaseException, path: Path) -> str:
    """The last line of the file that the error passed."""
    lines = [getattr(error, "lineno", None)] if isinstance(error, SyntaxError) else []
    lines += [number for frame, number in walk_tb(error.__traceback__) if frame.f_code.co_filename == str(path)]
    return f" in line {lines[-1]}" if lines and lines[-1] else ""


def _from_module(text: str, kind: str, base: type | None) -> Code:
    name, _, attribute = text.rpartition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # as `python -m` has it; an installed program has not
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"There is no module {shown(error.name or name)}, wanted for the {kind} {shown(text)}. Install it, or give a file: "
            f"PATH.py:{attribute or 'NAME'}."
        ) from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            raise
        raise ValueError(f"{shown(name)} raised {type(error).__name__} when it was imported: {shown(error)}.") from error
    attribute, value = _named(module, attribute, kind, base, f"The module {shown(name)}")
    return Code(kind, f"{name}:{attribute}", f"{name}:{attribute}", _hash_of(module), value)


def _from_entry_point(text: str, kind: str) -> Code:
    group = f"course_lib.{kind}s"
    points: tuple[EntryPoint, ...] = tuple(entry_points(group=group, name=text))
    if len(points) != 1:
        raise ValueError(f"{len(points)} installed packages have an entry point {shown(text)} of {group}; wanted one.")
    try:
        value = points[0].load()
    except Exception as error:
        raise ValueError(
            f"The entry point {shown(text)} ({shown(points[0].value)}) raised {type(error).__name__}: {shown(error)}. Install "
            "its package again, or leave it out."
        ) from error
    return Code(kind, text, text, _hash_of(sys.modules[value.__module__]), value)


def _hash_of(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    if file is None:
        return ""
    with open_regular(file) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# ---- what it is


def _named(module: ModuleType, name: str, kind: str, base: type | None, where: str) -> tuple[str, Any]:
    """What `name` is in the module; without a name the only one that fits, with its name there."""
    own = {key: value for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    fitting = [key for key, value in own.items() if callable(value) and (base is None or _is(value, base))]
    fitting = [key for key in fitting if not key.startswith("_")]
    if name:
        if hasattr(module, name):
            return name, getattr(module, name)
        near = get_close_matches(name, list(own), n=2)
        guess = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"{where} has no {shown(name)!r}.{guess} As {kind} it has: {', '.join(fitting) or 'nothing'}.")
    if len(fitting) == 1:
        return fitting[0], own[fitting[0]]
    if not fitting:
        wanted = f"a subclass of {base.__module__}.{base.__name__}" if base else "a function or class"
        raise ValueError(f"{where} has no {kind}; wanted {wanted}, defined in that file.")
    raise ValueError(f"{where} has {len(fitting)} {kind}s: {', '.join(fitting)}. Write which: FILE.py:{fitting[0]}.")


def _is(value: Any, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base) and value is not base


def _check(code: Code, base: type | None) -> None:
    if base is not None and not _is(code.object, base):
        raise ValueError(
            f"{shown(code.name)} is {_what(code.object)}; as {code.kind} it has to be a subclass of {base.__module__}."
            f"{base.__name__}."
        )
    if not callable(code.object):
        raise ValueError(f"{shown(code.name)} is {_what(code.object)}; as {code.kind} it has to be a function or class.")


def _what(value: Any) -> str:
    return "a class" if isinstance(value, type) else "a function" if inspect.isfunction(value) else f"a {type(value).__name__}"
