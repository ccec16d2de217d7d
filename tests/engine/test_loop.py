"""The loop: schedule, accumulation, precision, log, and what it does with a loss that is not finite."""

import json
import math

import pytest
import torch
from torch import nn

from course_lib.data import Batch
from course_lib.engine import JsonLines, LoopSettings, Precision, choose_device, poly, train
from course_lib.engine.loop import NonFiniteLoss
from course_lib.engine.precision import fuse
from course_lib.methods import Method
from course_lib.methods.step import Stream
from course_lib.methods.terms import Terms


class Line(Method):
    """A method with one weight: loss = w * mean(image)."""

    name = "line"

    @classmethod
    def streams(cls, settings):
        return {"source": Stream()}

    def __init__(self, optimiser=torch.optim.SGD):
        nn.Module.__init__(self)
        self.settings, self.terms = self.Settings(), Terms({}, self.name, self.offers)
        self.segmenter = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.segmenter.weight)
        self.optimisers = {"segmenter": optimiser(self.segmenter.parameters(), lr=1.0)}
        self.weights, self.landmarks = {"half": 0.5}, {}

    def losses(self, source):
        yield {"full": self.segmenter.weight.sum() * source.image.mean()}
        yield {"half": self.segmenter.weight.sum() * source.image.mean()}


def batch(value: float) -> Batch:
    return Batch(torch.full((1, 3, 2, 2), value), torch.zeros(1, 2, 2, dtype=torch.int64), [f"{value}.png"])


def weight(method: Line) -> float:
    return method.segmenter.weight.item()


def test_poly_reaches_zero_at_the_end_and_not_before():
    assert poly(0, 10) == 1 and poly(10, 10) == 0 and poly(12, 10) == 0
    assert poly(5, 10) == pytest.approx(0.5**0.9)


def test_warm_up_climbs_to_the_schedule():
    method = Line()
    train(method, {"source": [batch(1.0)] * 3}, LoopSettings(steps=3, schedule_steps=10, warmup=2), quiet=True)
    assert weight(method) == pytest.approx(1 - 1.5 * (0.5 + 0.9**0.9 + 0.8**0.9))


def test_all_passes_of_a_step_add_up_with_their_weights():
    method = Line()
    train(method, {"source": [batch(2.0)]}, LoopSettings(steps=1), quiet=True)
    assert weight(method) == pytest.approx(1 - 2.0 - 0.5 * 2.0)


def test_rates_follow_the_schedule_of_the_whole_run():
    method = Line()
    train(method, {"source": [batch(1.0)] * 2}, LoopSettings(steps=2, schedule_steps=4), quiet=True)
    assert weight(method) == pytest.approx(1 - 1.5 * (1 + 0.75**0.9))
    assert method.optimisers["segmenter"].param_groups[0]["initial_lr"] == 1.0


def test_accumulated_batches_are_one_large_batch():
    twice, once = Line(), Line()
    train(twice, {"source": [batch(1.0), batch(3.0)]}, LoopSettings(steps=1, accumulate=2), quiet=True)
    train(once, {"source": [batch(2.0)]}, LoopSettings(steps=1), quiet=True)
    assert weight(twice) == pytest.approx(weight(once))


def test_a_run_in_two_parts_is_the_run_in_one():
    settings = LoopSettings(steps=4)
    whole, parts = Line(), Line()
    train(whole, {"source": [batch(v) for v in (1.0, 2.0, 3.0, 4.0)]}, settings, quiet=True)
    first = LoopSettings(steps=2, schedule_steps=settings.schedule_steps)
    train(parts, {"source": [batch(1.0), batch(2.0)]}, first, quiet=True)
    train(parts, {"source": [batch(3.0), batch(4.0)]}, settings, start=2, quiet=True)
    assert weight(parts) == weight(whole)


def test_log_lines_hold_step_rate_and_unweighted_losses(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    saved = []
    settings = LoopSettings(steps=5, schedule_steps=None, log_every=2, save_every=3)
    train(Line(), {"source": [batch(1.0)] * 5}, settings, log=log, save=saved.append, quiet=True)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [r["step"] for r in records] == [2, 4, 5] and saved == [3, 5]
    assert (
        records[0]["losses"].keys() == {"full", "half"} and records[0]["losses"]["full"] == records[0]["losses"]["half"]
    )
    assert records == log.records


def test_a_loss_that_is_not_finite_stops_with_step_loss_and_pictures():
    with pytest.raises(NonFiniteLoss, match=r"Step 2: full, half .*nan.png.*learning rate"):
        train(Line(), {"source": [batch(1.0), batch(math.nan)]}, LoopSettings(steps=2, log_every=1), quiet=True)


def test_the_step_is_named_also_when_the_log_looks_later():
    batches = [batch(1.0), batch(math.nan), batch(2.0), batch(3.0)]
    with pytest.raises(NonFiniteLoss, match=r"Step 2: .* pictures of this step: nan.png\."):
        train(Line(), {"source": batches}, LoopSettings(steps=4, log_every=4), quiet=True)


def test_a_loader_that_ends_is_named():
    with pytest.raises(ValueError, match="ended after 1 steps.*train_loader"):
        train(Line(), {"source": [batch(1.0)]}, LoopSettings(steps=2), quiet=True)


@pytest.mark.parametrize("format", ["bf16", "fp16"])
def test_half_precision_runs_forward_passes_in_half(format):
    seen = []

    class Conv(Line):
        def __init__(self):
            super().__init__()
            self.segmenter = nn.Conv2d(3, 1, 1)
            self.optimisers = {"segmenter": torch.optim.SGD(self.segmenter.parameters(), lr=0.1)}

        def losses(self, source):
            output = self.segmenter(source.image)
            seen.append(output.dtype)
            yield {"full": output.float().mean()}

    method = Conv()
    before = method.segmenter.bias.item()
    train(method, {"source": [batch(1.0)] * 8}, LoopSettings(steps=8, precision=format), quiet=True)
    assert set(seen) == {{"bf16": torch.bfloat16, "fp16": torch.float16}[format]}
    steps = (before - method.segmenter.bias.item()) / 0.1  # of gradient 1 each; fp16 skips a few while its scale settles
    assert round(steps) in ({8} if format == "bf16" else range(1, 9)) and steps == pytest.approx(round(steps), abs=1e-3)


def test_devices_and_formats_that_are_not_there_are_named():
    with pytest.raises(ValueError, match="'tpu' is unknown; choose auto, cpu"):
        choose_device("tpu")
    with pytest.raises(ValueError, match="'fp8'; choose 'fp32'"):
        Precision("fp8")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="this machine has none"):
            choose_device("cuda")


def test_a_log_goes_back_to_a_step_and_drops_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st', encoding="utf-8")
    log = JsonLines(path)
    log.rewind(2)
    log.write({"step": 3, "again": True})
    assert path.read_text(encoding="utf-8") == '{"step": 1}\n{"step": 2}\n{"step": 3, "again": true}\n'
    assert [r["step"] for r in log.records] == [1, 2, 3]
    memory = JsonLines()
    memory.write({"step": 5})
    memory.rewind(0)
    assert memory.records == []


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_fused_optimisers_are_the_same_and_go_on_from_each_other(kind):
    """Plain, fused, and plain after fused with its state from a file: as on a GPU, and back on a CPU."""

    def optimiser_of(weight):
        options = {"lr": 0.1, "weight_decay": 0.01} | ({"momentum": 0.9} if kind is torch.optim.SGD else {})
        return kind([weight], **options)

    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(50, generator=generator), torch.randn(6, 50, generator=generator)
    plain, fused = (torch.nn.Parameter(start.clone()) for _ in range(2))
    one, other = optimiser_of(plain), optimiser_of(fused)
    for step, gradient in enumerate(gradients):
        plain.grad, fused.grad = gradient.clone(), gradient.clone()
        if step == 3:
            file = other.state_dict()
            assert file["param_groups"][0]["fused"]
            other = optimiser_of(fused)
            other.load_state_dict(file)
        fuse([other], on=step in (1, 2, 5))
        one.step()
        other.step()
        on = step in (1, 2, 5)
        assert bool(other.param_groups[0]["fused"]) == on == getattr(other, "_step_supports_amp_scaling", False)
        torch.testing.assert_close(fused, plain, rtol=0, atol=1e-6)


def test_on_the_cpu_optimisers_stay_as_they_are():
    method = Line(torch.optim.Adam)
    train(method, {"source": [batch(1.0)]}, LoopSettings(steps=1), quiet=True)
    (group,) = method.optimisers["segmenter"].param_groups
    assert not group["fused"] and not hasattr(method.optimisers["segmenter"], "_step_supports_amp_scaling")


def test_a_loss_that_is_named_twice_in_a_step_is_an_error():
    """In the log it would be one number, the sum of both."""

    class Twice(Line):
        def losses(self, source):
            yield from super().losses(source)
            yield {"full": self.segmenter.weight.sum()}

    with pytest.raises(ValueError, match="line yields the loss 'full' twice in one step; give each loss its own name"):
        train(Twice(), {"source": [batch(1.0)]}, LoopSettings(steps=1), quiet=True)
    train(Line(), {"source": [batch(1.0), batch(2.0)]}, LoopSettings(steps=1, accumulate=2), quiet=True)  # two batches: no
