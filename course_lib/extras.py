"""Packages that only some commands need: the extras of pyproject.toml."""

from importlib.util import find_spec


def require(extra: str, packages: tuple[str, ...], purpose: str) -> None:
    """Raise ModuleNotFoundError, with what to install, where one of the packages of an extra is missing. Imports nothing.

    >>> require("notebooks", ("json", "no_such_package"), "A slider")
    Traceback (most recent call last):
    ModuleNotFoundError: A slider needs the package no_such_package. In a checkout: pip install -e ".[notebooks]"
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        names = f"package {missing[0]}" if len(missing) == 1 else f"packages {', '.join(missing)}"
        raise ModuleNotFoundError(
            f"{purpose} needs the {names}. In a checkout: pip install -e \".[{extra}]\""
        )
