"""A compiled network is the same network: its losses, what it learns, and the names of its weights."""

import shutil
from functools import partialmethod
from itertools import repeat

import pytest
import torch

from course_lib.data import Batch
from course_lib.engine import LoopSettings, train
from course_lib.engine.precision import compiling
from course_lib.methods import AdaptSegNet, AdaptSegNetSettings
from course_lib.networks import build

CLASSES, SIZE = 5, (32, 64)


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, *SIZE, generator=generator)
    return Batch(image, torch.randint(0, CLASSES, (2, *SIZE), generator=generator), ["a.png", "b.png"])


def trained(compiled: bool) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Losses of three steps with frozen parts and passes without gradient, and all weights."""
    torch.manual_seed(0)
    method = AdaptSegNet(build("small", CLASSES, seed=0, width=8), AdaptSegNetSettings(discriminator_depth=3))
    settings = LoopSettings(steps=3, log_every=1, compile=compiled)
    log = train(method, {"source": repeat(batch(0)), "target": repeat(batch(1))}, settings, quiet=True)
    assert (method.segmenter._compiled_call_impl is not None) == compiled
    return [record["losses"] for record in log.records], method.state_dict()


without_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with a C++ compiler")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.full, without_compiler])])
def test_a_compiled_network_trains_as_it_is(backend, tmp_path, monkeypatch):
    """aot_eager captures the same graphs and runs them without generated code."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=backend))
    torch.compiler.reset()
    (plain, weights), (compiled, same) = trained(False), trained(True)
    for wanted, found in zip(plain, compiled, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert list(same) == list(weights), "a checkpoint of one is a checkpoint of the other"
    for name, value in weights.items():
        torch.testing.assert_close(same[name], value, rtol=1e-3, atol=1e-4)


def test_a_missing_compiler_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    words = r"compile=yes: torch cannot compile the network here \(.*no-such-compiler.*\). Install a C\+\+ .*leave compile out"
    with pytest.raises(RuntimeError, match=words) as caught:
        trained(True)
    assert "\n" not in str(caught.value)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="^mine$"), compiling(True):
        raise RuntimeError("mine")
