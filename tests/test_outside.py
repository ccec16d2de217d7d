"""Code from outside the library: what is imported, what it has to be, and what errors say."""

import pickle
import sys

import pytest

from course_lib import outside
from course_lib.methods import Method, find_method, load_method
from course_lib.methods.terms import find_term, load_term
from course_lib.networks import build, load_builder
from course_lib.recipes import Paper, load_code, own_paper, recipe
from course_lib.recipes.recipe import Recipe

METHOD = '''
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


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Write a file in the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "my_method.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.mark.parametrize("text", ["my_method.py:Mine", "my_method.py", "./my_method.py:Mine", "a_module_of_mine:Mine"])
def test_a_method_comes_from_a_file_or_a_module(text, file):
    file(METHOD)
    file(METHOD, "a_module_of_mine.py")
    name = load_method(text)
    assert name == (text if text.startswith("a_module") else "my_method.py:Mine")
    assert recipe("ministreet", name).override("strength=0.25").settings.strength == 0.25
    assert issubclass(find_method(name), Method)


def test_a_class_is_a_method_too():
    class Typed(find_method("source-only")):
        """Typed in a notebook."""

    chosen = recipe("ministreet", Typed)
    assert chosen.method.endswith("Typed") and find_method(chosen.method) is Typed
    with pytest.raises(ValueError, match="cannot import .*Typed: it was defined in a script or a notebook. Put it into a file"):
        outside.loaded()


def test_nothing_is_imported_by_a_name_in_a_recipe(file):
    """Reading a recipe that names a file is an error that says what to do, and runs nothing."""
    marker = file("open('marker', 'w').close()\n" + METHOD).parent / "marker"
    content = Recipe("toy", "source-only").to_dict()
    for change in ({"method": "my_method.py:Mine"}, {"terms": {"my_method.py:Mine": {}}}):
        with pytest.raises(ValueError, match="my_method.py:Mine"):
            Recipe.from_dict(content | change)
    with pytest.raises(ValueError, match="method my_method.py:Mine is code from outside .* as METHOD, PATH/my_method.py:Mine"):
        find_method("my_method.py:Mine")
    with pytest.raises(ValueError, match="term my_method.py:Mine is code from outside .* --set terms=.PATH/my_method.py:Mine"):
        find_term("my_method.py:Mine")
    assert Recipe.of_network(content | {"method": "my_method.py:Mine", "settings": {"strength": 1}}).method == "source-only"
    assert not marker.exists()
    load_method("my_method.py:Mine")
    assert marker.exists()


WRONG = [
    ("x = (", "raised SyntaxError in line 1 when it was imported: .*never closed.* Correct the file"),
    ("import sys\nsys.exit(3)", "raised SystemExit in line 2 when it was imported: 3"),
    ("y = 1\n1 / 0", "raised ZeroDivisionError in line 2 .*division by zero"),
    ("import not_there_at_all", "raised ModuleNotFoundError in line 1 .*not_there_at_all"),
    ("", "has no method; wanted a subclass of course_lib.methods.base.Method, defined in that file"),
    ("from course_lib.methods import ProCA", "has no method; wanted a subclass"),
    (METHOD + "class Other(Mine):\n    pass\n", "has 2 methods: Mine, Other. Write which: FILE.py:Mine"),
]


@pytest.mark.parametrize("text, words", WRONG, ids=[words[:30] for _, words in WRONG])
def test_a_file_without_a_usable_method(text, words, file):
    file(text)
    with pytest.raises(ValueError, match=f"my_method.py {words}"):
        load_method("my_method.py")


@pytest.mark.parametrize("text, words", [
    ("my_method.py:Mime", "has no 'Mime'. Did you mean Mine"),
    ("my_method.py:Settings", "my_method.py:Settings is a class; as method it has to be a subclass of course_lib.methods.base"),
    ("elsewhere.py:Mine", "There is no file elsewhere.py, wanted as method"),
    ("no_such_package.module:Mine", "There is no module no_such_package, wanted for the method .* or give a file"),
    ("procca", "There is no method 'procca'. Did you mean proca"),
    (".:Mine", "relative import|There is no module"),
])  # fmt: skip
def test_a_name_that_is_not_there(text, words, file):
    file(METHOD)
    with pytest.raises((ValueError, OSError, ImportError), match=words):
        load_method(text)


def test_a_settings_class_has_to_be_a_dataclass(file):
    file(METHOD.replace("@dataclass(frozen=True)\n", ""))
    with pytest.raises(ValueError, match="Settings of my_method.py:Mine .* wanted a frozen dataclass"):
        load_method("my_method.py")


def test_files_of_one_name_are_not_mixed(file):
    file(METHOD)
    file(METHOD, "other/my_method.py")
    load_method("my_method.py")
    with pytest.raises(ValueError, match="have one name in recipes, my_method.py:Mine. Rename one of the files"):
        load_method("other/my_method.py")


def test_a_file_that_was_edited_is_read_again(file):
    path = file(METHOD)
    first = find_method(load_method("my_method.py"))
    before = outside.LOADED["method", "my_method.py:Mine"].sha256
    assert find_method(load_method("my_method.py")) is first
    path.write_text(METHOD.replace("0.5", "0.75"), encoding="utf-8")
    assert find_method(load_method("my_method.py")).Settings().strength == 0.75
    assert outside.changed({"my_method.py:Mine": before}, outside.hashes([("method", "my_method.py:Mine")])) == [
        "my_method.py:Mine"
    ]
    assert not list(path.parent.glob("__pycache__"))


def test_another_process_can_load_the_same(file):
    """The settings of a file's class are pickled by the name of its module, which is the same everywhere."""
    file(METHOD)
    settings = recipe("ministreet", "my_method.py").settings
    kept, data = outside.loaded(), pickle.dumps(settings)
    for name in [name for name in sys.modules if name.startswith("_outside_")]:
        del sys.modules[name]
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(data)
    load_code(kept)
    assert pickle.loads(data).strength == 0.5


def test_an_entry_point_is_a_name(file, tmp_path, monkeypatch):
    """As an installed package has it: its folder of metadata names the group, the name and the class."""
    about = tmp_path / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[course_lib.methods]\nmine = mine_package:Mine\n", encoding="utf-8")
    file("open('marker', 'w').close()\n" + METHOD, "mine_package.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="There is no method 'mime'. Did you mean mine"):
        load_method("mime")
    with pytest.raises(ValueError, match="There is no method 'mine'"):
        find_method("mine")  # as a checkpoint would name it
    assert not (tmp_path / "marker").exists()
    assert load_method("mine") == "mine" and find_method("mine").__name__ == "Mine"


WITH_PAPER = METHOD + '''
from course_lib.recipes import Paper, Row

def rows(source, scale, start, same):
    return Row("source-only", "source-only", same), Row("half", "mine", ("strength=0.5",)), Row("whole", "mine", plan="mine")

PAPER = Paper(name="mine", reference="me", summary="mine", stages={"a": "source-only", "b": "mine"},
              small={"*": {"strength": 0.125}}, rows=rows)
'''


def test_the_paper_beside_a_method_is_its_own(file):
    """Its constants are a layer of the recipe; its stages and rows name the method by PAPER.name."""
    from course_lib.experiments.rows import ablation_rows

    file(WITH_PAPER)
    name = load_method("my_method.py:Mine")
    assert recipe("ministreet", name).settings.strength == 0.125
    paper = own_paper(name)
    assert isinstance(paper, Paper) and paper.stages == {"a": "source-only", "b": name}
    rows = {row.name: row for row in ablation_rows(name, "ministreet")}
    assert rows["half"].method == name and rows["whole"].plan == name and rows["source-only"].plan is None
    file(METHOD + "PAPER = 3")
    load_method("my_method.py:Mine")
    with pytest.raises(ValueError, match="PAPER in the file of my_method.py:Mine is a int; wanted a course_lib.recipes.Paper"):
        own_paper(name)


def test_two_terms_of_one_name_are_refused(file):
    term = "from course_lib.methods.terms import Term\nclass Near(Term):\n    pass\n"
    file(term, "one.py")
    file(term, "two.py")
    chosen = Recipe("toy", "source-only").override("terms=+one.py:Near", "Near.weight=2")
    assert chosen.terms["one.py:Near"].weight == 2
    with pytest.raises(ValueError, match="Two terms have one name: one.py:Near, two.py:Near"):
        chosen.override("terms=+two.py:Near")
    assert chosen.override("terms=-Near").terms == {} == chosen.override("terms=-one.py:Near").terms
    with pytest.raises(ValueError, match="no term|There is no term"):
        load_term("nearr")


def test_a_network_that_is_not_there_is_an_error_at_once():
    with pytest.raises(ValueError, match="There is no network 'smal'. Did you mean small"):
        Recipe("toy", "source-only").override("network=smal")
    with pytest.raises(FileNotFoundError, match="There is no file my_nets.py, wanted as network"):
        load_builder("my_nets.py:unet")


def test_code_has_the_name_that_it_has_in_its_file(file):
    """Two functions of one `__name__`, as closures have, are two networks; a partial has no `__name__`."""
    made = "from functools import partial\ndef make(width):\n    def network(num_classes):\n        return width\n"
    file(made + "    return network\na, b = make(8), make(16)\nc, RATE = partial(make, 4), 0.1\n", "my_nets.py")
    found = {name: outside.load(f"my_nets.py:{name}", "network", None) for name in "abc"}
    assert [code.name for code in found.values()] == ["my_nets.py:a", "my_nets.py:b", "my_nets.py:c"]
    assert [outside.LOADED["network", f"my_nets.py:{name}"].object(19) for name in "ab"] == [8, 16]
    assert found["a"].text.endswith("my_nets.py:a"), "with which another process loads it"
    with pytest.raises(ValueError, match="my_nets.py:RATE is a float; as network it has to be a function or class"):
        outside.load("my_nets.py:RATE", "network", None)


def test_an_option_that_an_own_network_does_not_have_names_its_function(file):
    file("def tiny(num_classes, width=8):\n    return None\n", "my_nets.py")
    load_builder("my_nets.py:tiny")
    with pytest.raises(ValueError, match=r"Network 'my_nets.py:tiny': tiny\(\) got .* 'depth'. Its function has the options"):
        build("my_nets.py:tiny", 19, depth=3)
