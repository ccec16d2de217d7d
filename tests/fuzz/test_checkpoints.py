"""Checkpoints and weight files that are damaged, foreign or hostile: loaded, or refused by name; no code of theirs runs."""

import copy
import io
import os
import zipfile

import pytest
import torch
from hypothesis import strategies as st

from course_lib.engine import CheckpointError, save_checkpoint
from course_lib.experiments.train import load_network
from course_lib.networks import build, deeplab_v2, load_published
from course_lib.recipes import recipe
from tests.fuzz.cases import expected_errors_name, fuzz
from tests.fuzz.changes import damaged

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, about odd tensors

RECIPE = recipe("ministreet", "adaptsegnet").override("network=small", "network_options={'width': 8}")
CONTENT = {
    "format": 2,
    "version": "0.1.0",
    "recipe": RECIPE.to_dict(),
    "step": 3,
    "segmenter": build("small", 19, seed=0, width=8).state_dict(),
    "optimisers": {"segmenter": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": []}},
}


def saved(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


WHOLE = saved(CONTENT)
PARTS = {info.filename: zipfile.ZipFile(io.BytesIO(WHOLE)).read(info) for info in zipfile.ZipFile(io.BytesIO(WHOLE)).infolist()}


class Trap:
    """Unpickled by a reader that runs code, it makes a file."""

    def __init__(self, way: int, mark: str) -> None:
        self.way, self.mark = way, mark

    def __reduce__(self):
        ways = [
            (os.system, (f"touch {self.mark}",)),
            (eval, (f"open({self.mark!r}, 'w')",)),
            (open, (self.mark, "w")),
            (torch.serialization.os.mkdir, (self.mark,)),
        ]
        return ways[self.way]


def repacked(name: str, content: bytes | None) -> bytes:
    """The checkpoint with one part changed or (None) left out; its check sums are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as parts:
        for other, whole in PARTS.items():
            if (new := content if other == name else whole) is not None:
                parts.writestr(other, new)
    return buffer.getvalue()


inside = st.sampled_from([name for name in PARTS if name.endswith(".pkl")] * 20 + list(PARTS)).flatmap(
    lambda name: st.one_of(damaged(PARTS[name]), damaged(PARTS[name]), st.none()).map(lambda data: repacked(name, data))
)
junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["small", "deeplab", "camvid11", "adaptsegnet"]),
    st.lists(st.integers(-3, 40), max_size=3),
    st.dictionaries(st.sampled_from(["width", "aux", "x", "steps"]), st.integers(-3, 40) | st.text(max_size=3), max_size=2),
    st.sampled_from([torch.zeros(0), torch.ones(()), torch.full((8,), torch.nan), torch.ones(3, 3), torch.zeros(8).bool()]),
    st.sampled_from([torch.ones(8).to_sparse(), torch.ones(8, dtype=torch.cfloat), torch.empty(8, device="meta")]),
)


@st.composite
def changed(draw, content):
    """The dictionary with a value, anywhere in it, replaced, left out or put in."""
    content = copy.copy(content)
    inner, keys = content, list(content)
    while True:
        key = draw(st.sampled_from(keys))
        if not isinstance(inner[key], dict) or not inner[key] or draw(st.integers(0, 3)) == 0:
            break
        inner[key] = copy.copy(inner[key])
        inner, keys = inner[key], list(inner[key])
    match draw(st.integers(0, 3)):
        case 0:
            del inner[key]
        case 1:
            inner[draw(st.text(max_size=5) | st.integers(0, 3))] = draw(junk)
        case _:
            inner[key] = draw(junk)
    return content


def try_network(path, mark):
    with expected_errors_name(path):
        try:
            network, made_by = load_network(path)
        except CheckpointError:
            raise
        except Exception as error:
            pytest.fail(f"{type(error).__name__} instead of CheckpointError: {error}")
        assert sum(p.numel() for p in network.parameters()) > 0 and made_by.space
    assert not mark.exists(), "code of the file was run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


def test_the_checkpoint_that_is_damaged_below_is_good(folder):
    path = save_checkpoint(folder / "good.pt", CONTENT)
    assert load_network(path)[1] == RECIPE
    path.write_bytes(repacked("", None))
    assert load_network(path)[1] == RECIPE


@fuzz("checkpoint bytes", data=damaged(WHOLE) | inside)
def test_damaged_bytes(folder, data):
    path = folder / "bytes.pt"
    path.write_bytes(data)
    try_network(path, folder / "mark")


@fuzz("checkpoint contents", content=changed(CONTENT) | junk, trap=st.none() | st.none() | st.integers(0, 3))
def test_foreign_contents(folder, content, trap):
    path, mark = folder / "contents.pt", folder / "mark"
    if trap is not None and isinstance(content, dict):
        content = content | {"step": Trap(trap, str(mark))}
    torch.save(content, path)
    try_network(path, mark)


def published() -> dict[str, torch.Tensor]:
    """Weights under the names of AdaptSegNet's release; all values are one number, stored once: a small file."""
    with torch.device("meta"):
        state = deeplab_v2(2, "adaptsegnet_single", blocks=(1, 1, 1, 1)).state_dict()
    return {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in state.items()}


PUBLISHED = published()
PUBLISHED_WHOLE = saved(PUBLISHED)


def test_the_published_weights_that_are_damaged_below_are_good(folder):
    path = folder / "published.pth"
    path.write_bytes(PUBLISHED_WHOLE)
    assert load_published(path, blocks=(1, 1, 1, 1)).report.loaded == len(PUBLISHED)


@fuzz("published weights", data=changed(PUBLISHED) | damaged(PUBLISHED_WHOLE) | st.dictionaries(st.text(max_size=9), junk))
def test_damaged_and_foreign_published_weights(folder, data):
    path = folder / "published.pth"
    path.write_bytes(data if isinstance(data, bytes) else saved(data))
    with expected_errors_name(path):
        loaded = load_published(path, blocks=(1, 1, 1, 1))
        assert all(p.device.type == "cpu" for p in loaded.network.parameters()), "a layer without values"
