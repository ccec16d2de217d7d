"""Losses that a paper adds to another method's step, one file per term: `--set terms=NAME`."""

from pathlib import Path

from course_lib import outside
from course_lib.methods.terms.base import Term, Terms, TermSettings
from course_lib.registry import find_named, modules_of

TERMS: dict[str, type[Term]] = {
    value.name: value
    for module in modules_of(__name__, __path__)
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, Term) and value.__module__ == module.__name__ and "name" in vars(value)
}


def find_term(name: str) -> type[Term]:
    """The class of a term; ValueError for an unknown name. Imports nothing."""
    if name not in TERMS and outside.is_reference(str(name)):
        raise ValueError(outside.not_loaded(name, "term"))
    find_named("term", name, TERMS)
    return TERMS[name]


def load_term(term: str | type[Term], near: Path | None = None) -> str:
    """The name by which recipes know a term, which is imported where it comes from outside (`methods.load_method`)."""
    if isinstance(term, str) and not outside.is_reference(term):
        if term in TERMS and ("term", term) not in outside.LOADED:
            return term
        if term not in outside.entry_point_names("term"):
            find_term(term)
            return term
    code = outside.load(term, "term", Term, near)
    TERMS[code.name] = code.object
    return code.name


__all__ = ["TERMS", "Term", "TermSettings", "Terms", "find_term", "load_term"]
