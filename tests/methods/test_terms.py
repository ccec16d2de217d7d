"""Terms: an example with parameters, a buffer, a weight and a first step, trained by the loop beside a method's own losses."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from course_lib.data import ministreet
from course_lib.engine import LoopSettings, Precision, train
from course_lib.engine.loop import backward_passes
from course_lib.experiments.train import Pair, train_recipe
from course_lib.losses import cross_entropy
from course_lib.methods import METHODS, AdaptSegNet, BiDA, Method, NormalisationControl, OptimiserSettings, SourceOnly
from course_lib.methods.step import Stream
from course_lib.methods.terms import TERMS, Term, TermSettings
from course_lib.recipes import recipe
from tests.bounds import bound, close
from tests.methods.test_proca import Tiny, batch
from tests.processes import whole_and_parts

PLAIN = OptimiserSettings(lr=0.01, head_factor=3.0, momentum=0.0, weight_decay=0.0)


@dataclass(frozen=True)
class NearnessSettings(TermSettings):
    """Constants of the example."""

    dim: int = 3
    momentum: float = 0.5


class Nearness(Term):
    """|| g(f) - m ||^2, a mean over pixels: features through a projector g, near to their running mean m."""

    name = "nearness"
    Settings = NearnessSettings

    def __init__(self, segmenter: nn.Module, settings: NearnessSettings | None = None) -> None:
        super().__init__(segmenter, settings)
        self.projector = nn.Conv2d(segmenter.feature_dim, self.settings.dim, 1)
        self.register_buffer("memory", torch.zeros(self.settings.dim))
        self.calls: list[tuple[Any, ...]] = []
        self.means: list[torch.Tensor] = []  # of the batches of this step

    def begin_step(self, step, steps):
        self.calls.append(("begin", step, steps))

    def forward(self, P, step):
        self.calls.append(("forward", step.number, step.batches["source"].name[0]))
        z = self.projector(P["source"].features)
        self.means.append(z.detach().mean((0, 2, 3)))
        return {"loss": (z - self.memory[:, None, None]).square().mean()}

    def after_step(self, step):
        self.calls.append(("after", step))
        if self.means:
            self.memory.lerp_(torch.stack(self.means).mean(0), 1 - self.settings.momentum)
        self.means.clear()


class Own(Term):
    """The example of a term with a forward pass of its own, over a stream that the method does not read."""

    name = "own"
    reads: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def streams(cls, settings):
        return {"target": Stream()}

    def forward(self, P, step):
        assert P == {}
        return {"loss": self.segmenter(step.batches["target"].image).logits.square().mean()}


def source_only(term: type[Term] = Nearness, **settings: Any) -> SourceOnly:
    """Source-only with the term; always the same weights."""
    torch.manual_seed(0)
    segmenter = Tiny()
    return SourceOnly(segmenter, optimiser=PLAIN, terms={term.name: term(segmenter, term.Settings(**settings))})


def copies(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def logged(method: Method, steps: int, batches: int | None = None, **settings: Any) -> list[dict[str, float]]:
    """The losses of each step, on source batches 0, 1, ..."""
    loop = LoopSettings(steps=steps, log_every=1, **settings)
    loader = [batch(seed) for seed in range(batches or steps)]
    return [record["losses"] for record in train(method, {"source": loader}, loop, quiet=True).records]


# ---- in a step of the loop ------------------------------------------------------------------------------------------


def test_it_takes_part_from_its_first_step_on():
    method = source_only(first_step=2)
    before = copies(method.terms)
    assert [list(losses) for losses in logged(method, 2)] == [["segmentation"]] * 2
    assert all(torch.equal(value, before[name]) for name, value in method.terms.state_dict().items())
    names = [list(losses) for losses in logged(source_only(first_step=2), 4)]
    assert names == [["segmentation"]] * 2 + [["segmentation", "nearness.loss"]] * 2


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_its_loss_is_logged_as_it_is_and_teaches_by_its_weight(weight):
    """w - lr d(L_seg + weight L_term) / dw, for the network and for the projector, which learns at the heads' rate."""
    method, twin = source_only(weight=weight), source_only(weight=weight)
    (losses,) = logged(method, 1)
    P, y = twin.segmenter(batch(0).image), batch(0).label
    term = twin.terms["nearness"].projector(P.features).square().mean()  # the memory is 0
    close(losses["nearness.loss"], term.item(), bound(300, torch.float32, 20.0))
    (cross_entropy(P.logits, y) + weight * term).backward()
    rates = {"segmenter.backbone": 0.01, "segmenter.head": 0.03, "terms.nearness": 0.03}
    for (name, a), b in zip(method.named_parameters(), twin.parameters(), strict=True):
        rate = next(rate for start, rate in rates.items() if name.startswith(start))
        gradient = torch.zeros_like(b) if b.grad is None else b.grad
        rounding = bound(4, torch.float32, b.abs().max()) + bound(4200, torch.float32, rate * gradient.abs().max())
        close(a, b.detach() - rate * gradient, rounding, what=name)
        assert not name.startswith("terms") or torch.equal(a, b) == (weight == 0), name


def test_its_parameters_learn_in_the_segmenters_optimiser_at_the_heads_rate():
    method = source_only()
    groups = method.optimisers["segmenter"].param_groups
    (own,) = [group for group in groups if group.get("name") == "terms"]
    assert {id(p) for p in own["params"]} == {id(p) for p in method.terms["nearness"].projector.parameters()}
    of_head = next(group for group in groups if any(p is method.segmenter.head.weight for p in group["params"]))
    assert own["lr"] == of_head["lr"] == PLAIN.lr * PLAIN.head_factor and own["weight_decay"] == PLAIN.weight_decay
    plain = SourceOnly(Tiny(), optimiser=PLAIN)
    assert list(method.optimisers) == list(plain.optimisers), "no optimiser of its own"
    assert len(plain.optimisers["segmenter"].param_groups) == len(groups) - 1


def test_its_hooks_come_once_in_a_step_whatever_accumulate_is():
    method = source_only()
    logged(method, 2, batches=4, accumulate=2, schedule_steps=9)
    assert method.terms["nearness"].calls == [
        ("begin", 0, 9), ("forward", 0, "0-0.png"), ("forward", 0, "1-0.png"), ("after", 0),
        ("begin", 1, 9), ("forward", 1, "2-0.png"), ("forward", 1, "3-0.png"), ("after", 1),
    ]  # fmt: skip


def test_hooks_of_a_method_come_once_in_a_step_whatever_accumulate_is():
    calls = []

    class Told(SourceOnly):
        def begin_step(self, step, steps):
            calls.append(("begin", step, steps))

        def losses(self, source):
            calls.append(("losses", source.name[0]))
            yield from super().losses(source)

        def after_step(self, step):
            calls.append(("after", step))

    logged(Told(Tiny(), optimiser=PLAIN), 2, batches=4, accumulate=2, schedule_steps=None)
    assert calls == [
        ("begin", 0, 2), ("losses", "0-0.png"), ("losses", "1-0.png"), ("after", 0),
        ("begin", 1, 2), ("losses", "2-0.png"), ("losses", "3-0.png"), ("after", 1),
    ]  # fmt: skip


# ---- what it reads --------------------------------------------------------------------------------------------------


def reading(*names: str) -> type[Term]:
    return type("Reading", (Nearness,), {"reads": names})


@pytest.mark.parametrize("method, reads, words", [
    (SourceOnly, ("target",), "reads the predictions of target; source-only offers source. Leave it out "),
    (NormalisationControl, ("source",), "reads the predictions of source; bn-control offers none. Leave it out "),
    (AdaptSegNet, ("source", "target"), "reads the predictions of source and target; adaptsegnet offers source or target. "),
    (BiDA, ("mixed",), "reads the predictions of mixed; bida offers source and target. "),
])  # fmt: skip
def test_predictions_that_a_method_does_not_offer_are_an_error(method, reads, words):
    segmenter = Tiny()
    with pytest.raises(ValueError) as error:
        method(segmenter, terms={"nearness": reading(*reads)(segmenter)})
    assert f"The term nearness {words}" in str(error.value)
    assert str(error.value).endswith("Leave it out (--set [STAGE.]terms=-nearness), or choose another method.")


def test_a_term_of_two_predictions_is_in_the_pass_that_has_both():
    segmenter = Tiny()
    method = BiDA(segmenter, terms={"nearness": reading("source", "target")(segmenter)})
    (losses,) = method.losses(source=batch(1), target=batch(2))
    assert "nearness.loss" in losses
    method = AdaptSegNet(segmenter, terms={"nearness": Nearness(segmenter)})
    names = [list(losses) for losses in method.losses(source=batch(1), target=batch(2))]
    assert names[0] == ["segmentation", "nearness.loss"] and not any("nearness" in name for rest in names[1:] for name in rest)


def test_a_term_that_reads_nothing_has_a_backward_pass_of_its_own():
    method, batches = source_only(Own, weight=0.25), {"source": batch(1), "target": batch(2)}
    passes = [list(losses) for losses in backward_passes(method, batches, Precision("fp32"))]
    assert passes == [["segmentation"], ["own.loss"]] and method.weight("own.loss") == 0.25
    assert not any("segmenter" in name for name in method.terms.state_dict()), "the network is the method's"
    before = copies(method.segmenter)
    loaders = {name: [one] for name, one in batches.items()}
    (record,) = train(method, loaders, LoopSettings(steps=1), quiet=True).records
    with torch.no_grad():
        twin = source_only(Own).segmenter(batch(2).image).logits.square().mean()
    close(record["losses"]["own.loss"], twin.item(), bound(300, torch.float32, 400.0))
    assert any(not torch.equal(value, before[name]) for name, value in method.segmenter.state_dict().items())


def test_a_term_that_reads_nothing_waits_for_its_first_step():
    method, batches = source_only(Own, first_step=1), {"source": batch(1), "target": batch(2)}
    loaders = {name: [one, one] for name, one in batches.items()}
    records = train(method, loaders, LoopSettings(steps=2, log_every=1), quiet=True).records
    assert [list(record["losses"]) for record in records] == [["segmentation"], ["segmentation", "own.loss"]]


# ---- names and weights ----------------------------------------------------------------------------------------------


def test_no_name_comes_twice():
    """A term's losses have its name, a dot and their own; names of terms are keys, and neither they nor methods have dots."""
    segmenter = Tiny()
    near, far = (Nearness(segmenter, NearnessSettings(weight=weight)) for weight in (0.5, 2.0))
    method = SourceOnly(segmenter, optimiser=PLAIN, terms={"near": near, "far": far})
    (losses,) = logged(method, 1)
    assert list(losses) == ["segmentation", "near.loss", "far.loss"]
    assert [method.weight(name) for name in losses] == [1.0, 0.5, 2.0]
    with pytest.raises(KeyError, match="near.loss"):
        SourceOnly(segmenter, terms={"near.loss": near})
    for name, each in METHODS.items():
        network = Tiny(aux=True)
        network.gives_disparity = True  # which `depth` asks for
        found = each(network)
        assert not any("." in loss for loss in found.weights.keys() | found.landmarks.keys()), name


# ---- a run that is stopped ------------------------------------------------------------------------------------------


def test_state_is_that_of_the_method():
    method = source_only()
    logged(method, 2)
    state = method.state_dict()
    assert {"terms.nearness.memory", "terms.nearness.projector.weight"} <= state.keys() and state["terms.nearness.memory"].any()


def test_a_run_with_a_term_that_is_stopped_and_resumed_is_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(TERMS, "nearness", Nearness)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    game = ministreet.make("gta5", tmp_path / "game", 3, 1, size=(32, 64), workers=1, progress=False)
    chosen = recipe("ministreet", "source-only").override(
        "network=small", "network_options={'width': 8}", "batch_size=1", "start_steps=0", "source_size=64x32", "select=last",
        "steps=6", "log_every=1", "terms=nearness", "terms.nearness.weight=0.5", "terms.nearness.first_step=1", "dim=2",
    )  # fmt: skip
    assert chosen.terms == {"nearness": NearnessSettings(weight=0.5, first_step=1, dim=2)}
    pair = Pair(f"gta5:{game}", None)
    whole, log = whole_and_parts(chosen, pair, tmp_path)
    assert {"terms.nearness.memory", "terms.nearness.projector.weight"} <= whole["method"].keys()
    assert log.count("nearness.loss") == 5
    other = replace(chosen, terms={"nearness": NearnessSettings(weight=0.25, first_step=1, dim=2)})
    with pytest.raises(ValueError, match=r"terms.nearness.weight=0.5; now asked for: terms.nearness.weight=0.25"):
        train_recipe(other, pair, tmp_path / "parts", existing="resume", quiet=True)
