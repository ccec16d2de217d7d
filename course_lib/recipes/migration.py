"""Recipes in the files of earlier versions."""

import dataclasses
import typing
from typing import Any

from course_lib.methods import HeadSettings, find_method


def migrated(content: dict[str, Any]) -> dict[str, Any]:
    """A copy of a recipe's dictionary with today's names.

    0.1.0 held the settings of all methods, each in a section of the method's name, and the shared weights of the heads in
    the sections of two methods.
    """
    from course_lib.recipes.recipe import Recipe

    if "settings" in content:
        return dict(content)
    kept = {f.name: content[f.name] for f in dataclasses.fields(Recipe) if f.name in content}
    sections = [section for name, section in content.items() if name not in kept and isinstance(section, dict)]
    heads = {f.name for f in dataclasses.fields(HeadSettings)}
    kept["heads"] = {key: value for section in sections for key, value in section.items() if key in heads}
    own = content.get(content["method"].replace("-", "_"), {})
    known = typing.get_type_hints(find_method(content["method"]).Settings)
    beside = {key: content[key] for key in known if key in content and key not in own}  # a section of its own, the views
    kept["settings"] = {key: value for key, value in (own | beside).items() if key not in heads}
    return kept
