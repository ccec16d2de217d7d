"""Signals are answered between two steps."""

import os
import signal
import threading

import pytest
import torch

from course_lib.engine import LoopSettings, Stopped, StopRequest, train
from tests.engine.test_loop import Line, batch


def test_a_signal_is_remembered_and_the_old_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() and str(stop) == "SIGTERM" and stop.signal == 15
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_second_ctrl_c_does_not_wait():
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert str(stop) == "Ctrl-C"
        signal.raise_signal(signal.SIGINT)


def test_outside_the_main_thread_it_never_asks():
    asked = []

    def work():
        with StopRequest() as stop:
            asked.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [False]


def test_the_loop_saves_the_step_in_hand_and_says_where_it_stopped():
    saved, asked = [], iter([False, True])

    class Stop:
        def __call__(self):
            return next(asked)

        def __str__(self):
            return "SIGTERM"

    with pytest.raises(Stopped, match="Stopped by SIGTERM after step 2 of 9") as stopped:
        train(Line(), {"source": [batch(1.0)] * 9}, LoopSettings(steps=9), save=saved.append, stop=Stop(), quiet=True)
    assert saved == [2] and stopped.value.step == 2


def test_a_request_at_the_last_step_is_no_stop():
    saved = []
    train(Line(), {"source": [batch(1.0)]}, LoopSettings(steps=1), save=saved.append, stop=lambda: True, quiet=True)
    assert saved == [1]


def test_what_is_not_finite_is_not_saved():
    saved = []
    settings = LoopSettings(steps=4, log_every=4, save_every=2)
    with pytest.raises(FloatingPointError, match="Step 2"):
        train(Line(), {"source": [batch(1.0), batch(torch.nan)]}, settings, save=saved.append, quiet=True)
    assert saved == []
