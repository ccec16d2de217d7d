"""A method says how many passes a step makes; hooks count them."""

from dataclasses import replace

import pytest
import torch

from course_lib.data import Batch
from course_lib.experiments.parts import seeded_segmenter
from course_lib.methods import OptimiserSettings
from course_lib.networks import build
from course_lib.recipes import METHODS, recipe
from course_lib.recipes.recipe import build_method

SMALL = ("network=small", "network_options={'width': 16}", "batch_size=2")


def counted(method_name: str, *settings: str) -> tuple[int, int]:
    """Passes of one step with and without gradient, in batches of 2."""
    chosen = recipe("ministreet_crops" if method_name == "simclr" else "ministreet", method_name).override(*SMALL, *settings)
    if method_name == "adaptsegnet":
        chosen = chosen.override("discriminator_input=image")
    if method_name == "cluda-hrda":  # the others on one resolution, whose calls are whole passes
        chosen = chosen.override("network=hrda", "network_options={'of': 'small', 'width': 16, 'attention_width': 8}")
    if chosen.has("terms.patch_contrast.window_share"):
        chosen = chosen.override("terms.patch_contrast.window_share=1", "terms.patch_contrast.least_overlap=1")
    if chosen.has("terms.distribution_contrast.loss_from"):
        chosen = chosen.override("terms.distribution_contrast.loss_from=0")
    if method_name == "simclr":
        chosen = replace(chosen, network_options={"width": 16, "norm": "batch"})
    method = build_method(chosen, seeded_segmenter(chosen)).train()
    seen = {True: 0, False: 0}

    def count(module, inputs):
        seen[torch.is_grad_enabled()] += len(inputs[0])

    for network in method.networks():
        network.register_forward_pre_hook(count)
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.rand(2, 3, 32, 64, generator=generator) for _ in range(2)]
    labels = torch.randint(0, 19, (2, 32, 64), generator=generator)
    source, target = (Batch(image, labels, ["a", "b"]) for image in pictures)
    with torch.no_grad():
        method.prepare(lambda stream: iter([{"source": source, "target": target}[stream]]))
    seen |= {True: 0, False: 0}  # of a step alone
    batches = {"source": source, "target": target}
    for losses in method.losses(**{stream: batches[stream] for stream in chosen.streams}):
        sum(losses.values()).backward()
    # the frozen encoder of feature_distance is a network of its own: test_daformer_terms
    stated = [method.passes(), *(term.passes() for name, term in method.terms.items() if name != "feature_distance")]
    trained, frozen, encoded = map(sum, zip(*stated))
    made = seen[True] // 2, seen[False] // 2
    if encoded:  # passes of the encoder alone: here, of a network that has no shorter way to its maps, whole ones
        assert 3 * trained + frozen + encoded == 3 * made[0] + made[1]
    else:
        assert (trained, frozen) == made
    return made


@pytest.mark.parametrize("name", METHODS)
def test_passes_are_those_that_a_step_makes(name):
    trained, frozen = counted(name)
    assert (trained, frozen) == {
        "source-only": (1, 0), "target-only": (1, 0), "bn-control": (1, 1), "dacs": (2, 1), "classmix": (2, 1),
        "daformer": (2, 1), "hrda": (2, 1), "mic": (3, 1), "pipa-daformer": (4, 1), "pipa-hrda": (4, 1), "cluda-hrda": (2, 1),
        "sepico": (3, 2), "supervised": (1, 0), "gist": (1, 0), "rist": (1, 0),
    }.get(name, (2, 0))  # fmt: skip


def test_self_training_without_the_source_makes_one():
    assert counted("self-training", "lambda_source=0") == (1, 0)


def test_settings_of_another_kind_are_refused():
    """A method was once called with the optimiser's settings in this place, and learnt with another optimiser."""
    with pytest.raises(TypeError, match="settings of SourceOnly are NoSettings; got OptimiserSettings. .*optimiser=..."):
        METHODS["source-only"](build("small", 5, seed=0, width=8), OptimiserSettings())
