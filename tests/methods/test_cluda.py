"""CLUDA on HRDA: from one step on mixed pictures are read where the network is least sure, source pictures as before."""

import pytest
import torch

from course_lib.data import Batch
from course_lib.methods import find_method
from course_lib.methods.cluda_hrda import CLUDAHRDA, CLUDASettings
from course_lib.networks import HRDA, Box, Boxes, small
from course_lib.networks.windows import uncertain_quarters
from course_lib.recipes import recipe
from tests.engine.test_no_waiting import Waits, stand_in, steps_of  # noqa: F401
from tests.experiments.conftest import TINY, network_of

C = 5


def method(uncertain_from: int = 2, network=None) -> CLUDAHRDA:
    torch.manual_seed(0)
    settings = CLUDASettings(uncertain_from=uncertain_from, mixed_photometric="none", mixed_blur=0.0)
    return CLUDAHRDA(network or HRDA(small(C, width=8), 8), settings).train()


def batch(seed: int) -> Batch:
    numbers = torch.Generator().manual_seed(seed)
    label = torch.randint(0, C, (2, 4, 8), generator=numbers).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return Batch(torch.randn(2, 3, 32, 64, generator=numbers), label, ["a.png", "b.png"])


def seen(m: CLUDAHRDA, steps: int) -> list[tuple]:
    """(image, prediction) of the segmenter's training passes."""
    found = []
    m.segmenter.register_forward_hook(lambda network, inputs, P: found.append((inputs[0], P)))
    for step in range(steps):
        m.begin_step(step, steps)
        for _ in m.losses(source=batch(2 * step), target=batch(2 * step + 1)):
            pass
    return found


def test_windows_of_mixed_pictures_are_those_of_the_largest_entropy_from_the_step_on():
    m = method(uncertain_from=2)
    passes = seen(m, 4)  # source, mixed, source, ...
    kinds = [type(P.detail.box) for _, P in passes]
    assert kinds == [Box, Box, Box, Box, Box, Boxes, Box, Boxes]
    for image, P in (passes[5], passes[7]):
        with torch.no_grad():
            torch.manual_seed(0)
            Z_L = m.segmenter.segmenter(torch.nn.functional.avg_pool2d(image, 2)).logits
        wanted = uncertain_quarters(Z_L, (32, 64))
        assert torch.equal(P.detail.box.top, wanted.top) and torch.equal(P.detail.box.left, wanted.left)
        assert P.detail.box[2:] == (16, 32)


def test_before_the_step_it_is_hrda():
    from course_lib.methods.hrda import HRDA as Plain

    found = []
    for kind, settings in ((CLUDAHRDA, CLUDASettings()), (Plain, Plain.Settings())):
        torch.manual_seed(0)
        m = kind(HRDA(small(C, width=8), 8), settings).train()
        torch.manual_seed(1)
        found.append([P.logits for _, P in seen(m, 2)])
    assert all(torch.equal(a, b) for a, b in zip(*found))


def test_a_network_of_one_resolution_has_no_windows():
    """The row without contrast may have one."""
    assert all(P.detail is None for _, P in seen(method(0, small(C, width=8)), 2))


def test_the_published_step_is_12_000_and_can_be_set():
    assert find_method("cluda-hrda").Settings().uncertain_from == 12_000
    assert recipe("gta5_cityscapes", "cluda-hrda").settings.uncertain_from == 12_000
    assert recipe("ministreet", "cluda-hrda").override("uncertain_from=3").settings.uncertain_from == 3
    with pytest.raises(ValueError, match="uncertain_from is -1; it wants"):
        CLUDASettings(uncertain_from=-1)
    with pytest.raises(ValueError, match="uncertain_from"):
        recipe("ministreet", "hrda").override(*TINY, *network_of("hrda"), "uncertain_from=3")


def test_a_step_asks_the_device_nothing(stand_in):  # noqa: F811
    with Waits() as waits:
        steps_of(method(uncertain_from=0), "meta", waits)
    assert waits.questions == []
