"""The mean teacher: the average in a closed form, buffers, modes of normalisation and dropout, state, processes."""

import copy
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from course_lib import ranks
from course_lib.engine.distributed import average_gradients, running_statistics
from course_lib.networks import build
from course_lib.teacher import EMA, CosineTeacherSettings, TeacherSettings
from tests.bounds import bound, close, far
from tests.processes import together

COPY = TeacherSettings(teacher_buffers="copy")


class Net(nn.Module):
    """A convolution, batch normalisation, dropout and a buffer that no layer changes."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.register_buffer("scale", torch.ones(2))

    def forward(self, x):
        return self.drop(self.norm(self.conv(x)))


def net(seed: int = 0) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net()


def pictures(seed: int = 0, n: int = 4) -> torch.Tensor:
    return 3 + 2 * torch.randn(n, 3, 5, 6, generator=torch.Generator().manual_seed(seed))


def changed(student: nn.Module, seed: int) -> nn.Module:
    """The student after a step: other weights, other statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for x in (*student.parameters(), *student.buffers()):
            x.copy_(torch.randn(x.shape, generator=generator) if x.is_floating_point() else torch.full_like(x, seed))
    return student


def averaged(values: list[np.ndarray], alpha: float) -> np.ndarray:
    """theta' after the given students, by the equation, in float64."""
    teacher = np.full_like(values[0], np.nan)
    for t, theta in enumerate(values):
        a = min(1 - 1 / (t + 1), alpha)
        teacher = theta if a == 0 else a * teacher + (1 - a) * theta
    return teacher


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 0.999])
def test_weights_equal_the_equation(alpha):
    student = net()
    teacher, seen = EMA(student, TeacherSettings(alpha=alpha)), []
    for t in range(12):
        changed(student, t)
        seen.append({name: p.detach().double().numpy().copy() for name, p in student.named_parameters()})
        teacher.follow(student, t)
    for name, p in teacher.module.named_parameters():
        close(p, averaged([s[name] for s in seen], alpha), bound(12 * 3, torch.float32, 4.0))


def test_before_alpha_is_reached_it_is_the_mean_of_all_students_and_then_a_geometric_sum():
    teacher = EMA(net(), TeacherSettings(alpha=0.75))
    assert [teacher.rate(t) for t in range(6)] == [0, 1 / 2, 1 - 1 / 3, 3 / 4, 3 / 4, 3 / 4]


def test_step_0_copies_weights_and_buffers_bit_for_bit_whatever_becomes_of_buffers_later():
    """The student may have loaded another start since the teacher was built."""
    for buffers in ("keep", "copy", "average"):
        student = net()
        teacher = EMA(student, TeacherSettings(teacher_buffers=buffers))
        teacher.follow(changed(student, 3), 0)
        for (name, own), new in zip(teacher.module.state_dict().items(), student.state_dict().values(), strict=True):
            assert torch.equal(own, new), name


@pytest.mark.parametrize("buffers", ["keep", "copy", "average"])
def test_buffers_are_kept_copied_or_averaged(buffers):
    student = changed(net(), 1)
    teacher = EMA(student, TeacherSettings(alpha=0.5, teacher_buffers=buffers))
    teacher.follow(student, 0)
    first = {name: b.clone() for name, b in student.named_buffers()}
    teacher.follow(changed(student, 2), 5)
    for name, b in teacher.module.named_buffers():
        old, new = first[name], student.get_buffer(name)
        assert not torch.equal(old, new)
        if buffers == "average" and b.is_floating_point():
            close(b, (old.double() + new.double()) / 2, bound(3, torch.float32, 4.0))
        else:
            assert torch.equal(b, old if buffers == "keep" else new), name


def test_it_shares_nothing_with_the_student_and_has_no_gradient():
    student = net()
    student(pictures()).sum().backward()
    teacher = EMA(student)
    before = copy.deepcopy(teacher.state_dict())
    changed(student, 7)
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    assert not teacher(pictures().requires_grad_()).requires_grad


def test_in_training_it_normalises_by_the_batch_and_drops_nothing():
    student = net()
    teacher = EMA(student).train()
    x = pictures()
    found, again = teacher(x), teacher(x)
    y = student.conv(x).detach().double()
    mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), keepdim=True, correction=0)
    close(found, (y - mean) / (var + 1e-5).sqrt(), bound(150, torch.float32, 8.0))
    assert torch.equal(found, again)
    assert far(teacher.module.norm.running_mean, torch.zeros(4), 0.05)  # of its own pictures
    assert torch.equal(student.norm.running_mean, torch.zeros(4))


def test_running_statistics_are_used_where_the_settings_say_so_and_in_eval_mode():
    x, student = pictures(), net().train()
    for teacher in (EMA(student, TeacherSettings(teacher_normalisation="running")), EMA(student).eval()):
        wanted = copy.deepcopy(student).eval()(x)
        assert torch.equal(teacher(x), wanted)
        assert torch.equal(teacher.module.norm.running_mean, torch.zeros(4))


def test_the_mode_follows_the_method_that_owns_it():
    owner = nn.ModuleDict({"teacher": EMA(net())})
    layer = owner["teacher"].module
    for mode in (True, False, True):
        owner.train(mode)
        assert layer.norm.training == mode and not layer.drop.training and not layer.training


def test_normalisation_that_the_network_freezes_stays_frozen():
    class Frozen(Net):
        def train(self, mode=True):
            super().train(mode)
            self.norm.eval()
            return self

    teacher = EMA(Frozen().train()).train()
    teacher(pictures())
    assert not teacher.module.norm.training and torch.equal(teacher.module.norm.running_mean, torch.zeros(4))


def test_a_network_of_the_library_gives_its_prediction():
    student = build("small", num_classes=5, width=8, norm="batch")
    teacher = EMA(student.eval(), COPY)
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(teacher(image).logits, student(image).logits)


def test_saved_and_loaded_it_continues_bit_for_bit():
    def steps(teacher, student, first, last):
        for t in range(first, last):
            teacher.follow(changed(student, t), t)
            teacher(pictures(t))
        return teacher.state_dict()

    settings = TeacherSettings(alpha=0.9, teacher_buffers="average")
    whole = steps(EMA(net(), settings), net(), 0, 8)
    first = EMA(net(), settings)
    steps(first, net(), 0, 5)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = EMA(net(9), settings)
    second.load_state_dict(torch.load(file, weights_only=True))
    resumed = steps(second, net(), 5, 8)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert {"module.norm.running_mean", "module.conv.weight", "module.scale"} <= whole.keys()


def test_it_moves_with_its_owner():
    teacher = EMA(net()).to("meta")
    assert {x.device.type for x in (*teacher.parameters(), *teacher.buffers())} == {"meta"}
    teacher.follow(net().to("meta"), 3)  # meta tensors have no values: the host asks for none
    assert EMA(net()).double().module.conv.weight.dtype == torch.float64


def in_processes():
    student = net()
    teacher = EMA(student)
    optimiser = torch.optim.SGD(student.parameters(), 0.1)
    for t in range(3):
        teacher.follow(student, t)
        (student(pictures(10 * t + ranks.rank())) - teacher(pictures(10 * t + ranks.rank()))).square().mean().backward()
        average_gradients([optimiser], buffers=running_statistics(nn.ModuleList([student, teacher])))
        optimiser.step()
        optimiser.zero_grad()
    return teacher.state_dict()


def test_all_processes_hold_the_same_teacher(tmp_path):
    a, b = together(in_processes, tmp_path)
    assert all(torch.equal(a[k], b[k]) for k in a) and far(a["module.norm.running_mean"], torch.zeros(4), 0.05)


def test_another_module_is_refused_by_name_and_shape():
    class Other(Net):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 1)

    teacher = EMA(net())
    with pytest.raises(ValueError, match=r"'conv.bias' is \(4,\); got one where it is \(5,\). Follow the module that EMA was"):
        teacher.follow(Other(), 0)
    with pytest.raises(ValueError, match=r"'norm.running_mean' is \(4,\); got one where it is missing"):
        other = net()
        other.norm.running_mean = None
        teacher.follow(other, 0)
    with pytest.raises(ValueError, match="Got step -1; the steps that a teacher follows count from 0"):
        teacher.follow(net(), -1)


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("alpha", 1.0, "alpha is 1.0; it wants a number from 0.0 to 0.999999"),
        ("alpha", float("nan"), "alpha is nan"),
        ("teacher_buffers", "mean", "teacher_buffers: it holds 'mean', wanted one of 'keep', 'copy', 'average'"),
        ("teacher_normalisation", "eval", "teacher_normalisation: it holds 'eval', wanted one of 'batch', 'running'"),
    ],
)
def test_settings_out_of_range_are_refused(field, value, words):
    with pytest.raises(ValueError, match=words):
        replace(TeacherSettings(), **{field: value})


# ---- a schedule over the whole training -----------------------------------------------------------------------------


def test_the_cosine_teacher_equals_the_equation():
    """a_t = min(1 - 1/(10 t + 1), 1 - .005 (1 + cos(pi t / T)) / 2): faster than the mean first, and still at the end."""
    student, steps, alpha = net(), 40, 0.95
    teacher = EMA(student, CosineTeacherSettings(alpha=alpha))
    wanted, rates = None, []
    for t in range(steps):
        changed(student, t)
        teacher.follow(student, t, steps)
        a = min(1 - 1 / (10 * t + 1), 1 - (1 - alpha) * (math.cos(math.pi * t / steps) + 1) / 2)
        theta = student.conv.weight.detach().double().numpy()
        wanted = theta if t == 0 else a * wanted + (1 - a) * theta
        rates.append(a)
        close(teacher.rate(t, steps), a, bound(10, torch.float64))
    close(teacher.module.conv.weight, wanted, bound(3 * steps, torch.float32, 5.0))
    assert rates == sorted(rates) and rates[:2] == [0.0, 1 - 1 / 11] and rates[-1] == 1 - 1 / 391, "the mean is slower there"
    assert CosineTeacherSettings(alpha_warm=1.0).rate(5, steps) == 1 - 1 / 6 == TeacherSettings().rate(5)
    long = CosineTeacherSettings(alpha_warm=1e6)
    assert long.rate(50, 40) > long.rate(40, 40) > 1 - 1e-7, "beyond the last step it stands still"


def test_a_cosine_wants_the_number_of_steps():
    with pytest.raises(ValueError, match=r"wants the number of steps: follow\(module, step, steps\)"):
        EMA(net(), CosineTeacherSettings()).follow(net(), 3)
    with pytest.raises(ValueError, match="alpha_warm is 0.5; it wants a number from 1.0"):
        CosineTeacherSettings(alpha_warm=0.5)
    with pytest.raises(ValueError, match="step -1"):
        EMA(net(), CosineTeacherSettings()).rate(-1, 10)


def test_a_term_takes_the_settings_of_the_methods_teacher():
    method, student = EMA(net(), TeacherSettings(alpha=0.5, teacher_normalisation="running")), net(1)
    own = EMA(student)
    assert own.module.norm.training
    before = own.module.conv.weight.clone()
    own.follow_as(method, changed(student, 3), 9)
    assert own.settings == method.settings and not own.module.norm.training
    close(own.module.conv.weight, (before + student.conv.weight) / 2, bound(3, torch.float32, 5.0))
