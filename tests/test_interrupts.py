"""Interrupts: the first is noted, the second ends the work, and ignored ones stay ignored."""

from __future__ import annotations

import signal

import pytest

from gq_tvm import interrupts


@pytest.mark.usefixtures("interrupts")
def test_the_first_interrupt_is_noted_and_the_second_raised():
    stops: list[object] = []
    with interrupts.noted(lambda: stops.append("outer")):
        with interrupts.noted(lambda: stops.append("inner")):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert stops == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        interrupts.interrupt()


@pytest.mark.usefixtures("interrupts")
def test_ignored_interrupts_stay_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stops: list[object] = []
    with interrupts.noted(lambda: stops.append(1)):
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert stops == []
        interrupts.interrupt()  # as another signal may ask for
    assert stops == [1]
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
