"""Losses that a paper adds to another method's step, one file per term: `--set terms=NAME`."""

from course_lib.methods.terms.base import Term, Terms, TermSettings
from course_lib.registry import find_named, modules_of

TERMS: dict[str, type[Term]] = {
    value.name: value
    for module in modules_of(__name__, __path__)
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, Term) and value.__module__ == module.__name__ and "name" in vars(value)
}


def find_term(name: str) -> type[Term]:
    """The class of a term; ValueError for an unknown name."""
    if not TERMS:
        raise ValueError(f"There is no term {name!r}: this version has none.")
    find_named("term", name, TERMS)
    return TERMS[name]


__all__ = ["TERMS", "Term", "TermSettings", "Terms", "find_term"]
