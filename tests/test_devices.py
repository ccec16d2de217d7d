"""What a device cannot do, on the stand-in for Apple's MPS; and that the stand-in refuses what it promises."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_lib.data import Batch
from course_lib.devices import copies_may_run_ahead, image_layout, long_sums, widened
from course_lib.engine import Precision, choose_device, load_checkpoint, save_checkpoint
from course_lib.engine.precision import to_device
from course_lib.evaluation import evaluate, information
from course_lib.networks import build
from course_lib.prototypes import ClassSums, PrototypeBank
from course_lib.pseudo_labels import batch_thresholds
from tests.mps import on_mps, without_onednn

C, D = 4, 6
PACKAGE = Path(__file__).resolve().parents[1] / "course_lib"


def batch(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, D, 3, 5, generator=generator), torch.randint(0, C, (2, 3, 5), generator=generator)


# ---- long sums ------------------------------------------------------------------------------------------------------


def test_long_sums_are_float64_where_the_device_has_it_and_else_on_the_cpu():
    assert long_sums("cuda:1") == {"device": torch.device("cuda", 1), "dtype": torch.float64}
    assert long_sums("mps:0") == long_sums("cpu") == {"device": torch.device("cpu"), "dtype": torch.float64}
    with torch.device("meta"):
        assert long_sums()["device"].type == "meta"  # torch's own default
    x = torch.tensor([0.1, 3.0])
    with on_mps():
        there = widened(x.to("mps"))
        assert type(there) is torch.Tensor and there.dtype == torch.float64 and torch.equal(there, x.double())
    assert torch.equal(widened(x), x.double()) and widened(x.double()).dtype == torch.float64


def test_nothing_else_in_the_library_makes_float64_of_what_a_device_may_hold():
    """`.double()` only behind `.cpu()`, `torch.float64` nowhere; data/ works on the host, before anything goes to a device.

    safe_tensors.py names the types that a file can hold; its tensors are on the CPU.
    """
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.name in ("devices.py", "safe_tensors.py") or "data" in path.relative_to(PACKAGE).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute) or ast.unparse(node) == "np.float64":
                continue
            if node.attr in ("float64", "double", "complex128") and not ast.unparse(node).endswith(".cpu().double"):
                found.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
    assert found == []


@pytest.mark.parametrize("rule", ["mean", "ema", "mix", "fixed"])
def test_a_bank_on_a_device_without_float64_holds_the_same_prototypes(rule):
    def bank_on(device: str) -> PrototypeBank:
        bank = PrototypeBank(C, D, rule).to(device)
        bank.initialise(ClassSums(C, D, device).add(*(x.to(device) for x in batch(0))))
        for seed, domain in ((1, "source"), (2, "target")):
            bank.update(*(x.to(device) for x in batch(seed)), domain)
        return bank

    alone = bank_on("cpu")
    with on_mps():
        there = bank_on("mps")
        assert there.prototypes.device.type == there.seen.device.type == "mps"  # where the losses want them
        assert there.mean.device.type == there.count.device.type == "cpu"
        assert torch.equal(there.prototypes.cpu(), alone.prototypes) and torch.equal(there.seen.cpu(), alone.seen)
        back = there.to("cpu")
        assert back.prototypes.device.type == "cpu" and torch.equal(back.prototypes, alone.prototypes)


def test_a_saved_bank_is_the_same_file_on_every_device_and_loads_on_every_device(tmp_path):
    method = nn.ModuleDict({"bank": PrototypeBank(C, D), "head": nn.Linear(D, C)})
    method["bank"].update(*batch(0), "source")
    alone = save_checkpoint(tmp_path / "cpu.pt", {"segmenter": {}, "method": method.state_dict(), "list": [torch.ones(1)]})
    with on_mps():
        state = method.to("mps").state_dict()
        assert state["head.weight"].device.type == "mps"
        there = save_checkpoint(tmp_path / "mps.pt", {"segmenter": {}, "method": state, "list": [torch.ones(1).to("mps")]})
        assert state["head.weight"].device.type == "mps"  # what was given is as it was
    a, b = load_checkpoint(alone), load_checkpoint(there)
    assert list(a["method"]) == list(b["method"]) == ["bank.mean", "bank.count", "head.weight", "head.bias"]
    assert all(torch.equal(a["method"][name], b["method"][name]) for name in a["method"])
    assert {x.dtype for name, x in b["method"].items() if "bank" in name} == {torch.float64}
    assert alone.read_bytes() == there.read_bytes()
    with on_mps():
        fresh = nn.ModuleDict({"bank": PrototypeBank(C, D), "head": nn.Linear(D, C)}).to("mps")
        fresh.load_state_dict(a["method"])
        assert torch.equal(fresh["bank"].mean, a["method"]["bank.mean"])


def test_information_and_thresholds_are_those_of_the_cpu():
    network = build("small", C, seed=0, width=8)
    pictures = [Batch(torch.randn(2, 3, 16, 32), torch.zeros(2, 16, 32).long(), ["a", "b"])]
    sure, prediction = torch.rand(2, 9, 9), torch.randint(0, C, (2, 9, 9))
    with without_onednn():
        alone = information(network, pictures), batch_thresholds(sure, prediction, C)
    with without_onednn(), on_mps():
        there = information(network, pictures, device="mps"), batch_thresholds(sure.to("mps"), prediction.to("mps"), C).cpu()
    assert there[0] == alone[0] and torch.equal(there[1], alone[1])


# ---- copies, memory formats, number formats -------------------------------------------------------------------------


def test_copies_wait_and_pictures_stay_contiguous_on_mps_alone():
    assert [copies_may_run_ahead(device) for device in ("cpu", "cuda", "meta", "mps")] == [True, True, True, False]
    formats = [image_layout(device, wanted) for device in ("cuda", "mps") for wanted in (True, False)]
    assert formats == [torch.channels_last, *[torch.contiguous_format] * 3]
    one = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    assert to_device(one, torch.device("cpu"), False).weight.is_contiguous(memory_format=torch.channels_last)
    with on_mps():
        assert to_device(one, torch.device("mps"), True).weight.is_contiguous()  # though it came as channels_last
        given = Batch(torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8).long(), ["a"]).to("mps", channels_last=True)
        assert given.image.is_contiguous() and given.label.device.type == "mps"


@pytest.mark.parametrize("format", ["bf16", "fp16"])
def test_mps_has_fp32_alone(format):
    wanted = f"precision is '{format}'; on mps it can only be 'fp32'. Give --set precision=fp32, or --device cpu"
    with pytest.raises(ValueError, match=wanted):
        Precision(format, "mps")
    with on_mps(), pytest.raises(ValueError, match=wanted):
        evaluate(build("small", C, width=8), [], C, device="mps", precision=format)
    Precision("fp32", "mps")


def test_auto_is_cuda_or_the_cpu_and_mps_has_to_be_named(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device("auto").type == choose_device().type == kind
    assert choose_device("mps").type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="Got device 'mps', and this machine has none. Choose --device cpu or auto"):
        choose_device("mps")


# ---- the stand-in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refused, error, words",
    [
        (lambda x: x.double(), TypeError, "float64"),
        (lambda x: x + torch.ones((), dtype=torch.float64), None, ""),  # a single number does not widen
        (lambda x: torch.zeros(2, dtype=torch.float64, device="mps"), TypeError, "float64"),
        (lambda x: torch.zeros(2, dtype=torch.float64).to("mps"), TypeError, "float64"),
        (lambda x: x.to(torch.complex128), TypeError, "complex128"),
        (lambda x: x.sum(dtype=torch.float64), TypeError, "float64"),
        (lambda x: x.to("cpu", torch.float64), TypeError, "a copy between the devices that also casts"),
        (lambda x: torch.zeros(1, 1, 7, 5, dtype=torch.float64).copy_(x), TypeError, "also casts"),
        (lambda x: torch.zeros(2, dtype=torch.float64).to("mps", torch.float32), TypeError, "also casts"),
        (lambda x: x.cpu().double(), None, ""),
        (lambda x: torch.ones(2).to("mps", non_blocking=True), RuntimeError, "does not wait"),
        (lambda x: x.copy_(torch.ones(1, 1, 7, 5), non_blocking=True), RuntimeError, "does not wait"),
        (lambda x: x.copy_(torch.ones(1, 1, 7, 5)), None, ""),
        (lambda x: x + torch.ones(1, 1, 7, 5), RuntimeError, "same device"),
        (lambda x: x[:, :, torch.tensor([0, 2])], None, ""),
        (lambda x: F.adaptive_avg_pool2d(x, (3, 5)), RuntimeError, "divisible"),
        (lambda x: F.adaptive_max_pool2d(x, (7, 2)), RuntimeError, "divisible"),
        (lambda x: F.adaptive_avg_pool2d(x, (14, 1)), None, ""),
        (lambda x: normalised(x, torch.channels_last), RuntimeError, "not contiguous"),
        (lambda x: normalised(x, torch.contiguous_format), None, ""),
    ],
)  # fmt: skip
def test_the_stand_in_refuses(refused, error, words):
    with on_mps() as device:
        x = torch.arange(35.0).view(1, 1, 7, 5).to("mps")
        if error is None:
            refused(x)
        else:
            with pytest.raises(error, match=words):
                refused(x)
    assert device.seen


def normalised(x: torch.Tensor, layout: torch.memory_format) -> None:
    x = x.expand(2, 3, 7, 5).contiguous(memory_format=layout).requires_grad_()
    nn.BatchNorm2d(3).to("mps")(x).square().sum().backward()


def test_the_stand_in_computes_what_the_cpu_does():
    def learnt(device: str) -> tuple[torch.Tensor, float]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2))
        optimiser = torch.optim.AdamW(network.parameters())
        network.to(device)
        x = torch.rand(5, 3, 8, 8).to(device)
        x[:, 1].mul_(2)  # a view
        for _ in range(3):
            optimiser.zero_grad()
            loss = network(x).logsumexp(1).mean()
            loss.backward()
            optimiser.step()
        return network[0].weight.detach().cpu(), loss.item()

    with on_mps() as device:
        there = learnt("mps")
    alone = learnt("cpu")
    assert torch.equal(there[0], alone[0]) and there[1] == alone[1] and device.seen["convolution"] == 3
    assert not torch.__future__.get_swap_module_params_on_conversion() and not torch.backends.mps.is_available()
