"""Ctrl-C in a training: the step is finished and the checkpoint written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gq_tvm.models.training import Trainer


@contextmanager
def stopping_on_interrupt(trainer: Trainer) -> Iterator[None]:
    """An interrupt stops the trainer after its step; a second one is raised at once.

    Raises KeyboardInterrupt at the end if there was one, when the checkpoint is written.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        trainer.stopping = True
        trainer.report("stopping after this step; interrupt again to lose it")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if trainer.stopping:
        trainer.report(
            f"{trainer.phase}  stopped at step {trainer.step}/{trainer.schedule.steps}, "
            "the checkpoint is written; the same command with --resume goes on"
        )
        raise KeyboardInterrupt
