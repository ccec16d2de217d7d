"""Files of a user's code and recipe files that went wrong: an error that names the file or its words; never a traceback."""

import torch
from hypothesis import strategies as st

from course_lib import outside
from course_lib.experiments.recipe_file import read_recipe
from course_lib.experiments.show import recipe_text
from course_lib.methods import Method, find_method, load_method
from course_lib.methods.terms import Term, find_term, load_term
from course_lib.networks import build, load_builder
from course_lib.recipes.recipe import Recipe
from tests.fuzz.cases import fuzz
from tests.fuzz.changes import damaged

METHOD = b'''"""A method."""
from dataclasses import dataclass

from course_lib.methods import Method


@dataclass(frozen=True)
class Settings:
    strength: float = 0.5


class Mine(Method):
    """A method."""

    Settings = Settings

    def losses(self, source, target):
        yield self.supervised(self.segmenter(source.image), source.label)
'''
RECIPE = recipe_text("ministreet", "proca", ("steps=20",)).encode()


def users_file(tmp_path_factory, name, content):
    """A file of a user's code in a folder of its own; another folder's file of this name is another file."""
    path = tmp_path_factory.mktemp("own") / name
    path.write_bytes(content)
    outside.LOADED.clear()
    return path


def is_named(error, path):
    return path.stem in str(error) and len(str(error)) < 3000


@fuzz("own code", content=damaged(METHOD), part=st.sampled_from(["", ":Mine", ":Settings", ":Other", ":Method", ":"]))
def test_a_file_of_code(content, part, tmp_path_factory):
    path = users_file(tmp_path_factory, "my_method.py", content)
    try:
        loaded = load_method(f"{path}{part}")
    except (ValueError, ImportError) as error:
        assert is_named(error, path)
    else:
        assert issubclass(find_method(loaded), Method) and loaded.startswith("my_method.py:")


NETWORK = b'''"""A network."""
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, num_classes, 1)

    def forward(self, x):
        return {"out": self.head(self.body(x))}
'''
TERM = b'''"""A term."""
from course_lib.methods.terms import Term


class Near(Term):
    """A term."""

    reads = ("target",)

    def forward(self, P, step):
        return {"distance": P["target"].features.square().mean()}
'''


@fuzz("own networks", content=damaged(NETWORK), part=st.sampled_from(["", ":Net", ":nn", ":Other", ":"]))
def test_a_file_of_a_network(content, part, tmp_path_factory):
    path = users_file(tmp_path_factory, "my_nets.py", content)
    try:
        network = build(load_builder(f"{path}{part}"), 5)
    except (ValueError, ImportError) as error:
        assert is_named(error, path)
    else:
        assert network(torch.zeros(1, 3, 32, 64)).logits.shape[1] == 5


@fuzz("own terms", content=damaged(TERM), part=st.sampled_from(["", ":Near", ":Term", ":Other", ":"]))
def test_a_file_of_a_term(content, part, tmp_path_factory):
    path = users_file(tmp_path_factory, "my_terms.py", content)
    try:
        loaded = load_term(f"{path}{part}")
    except (ValueError, ImportError) as error:
        assert is_named(error, path)
    else:
        assert issubclass(find_term(loaded), Term) and loaded.startswith("my_terms.py:")


@fuzz("recipe files", content=damaged(RECIPE))
def test_a_recipe_file(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "mine.toml"
    path.write_bytes(content)
    try:
        found = read_recipe(path)
    except FileNotFoundError as error:  # of a method that the damage made the name of a file
        assert "wanted as" in str(error)
    except (ValueError, ImportError) as error:
        assert "mine.toml" in str(error) and len(str(error)) < 9000
    else:
        assert isinstance(found.recipe, Recipe)
