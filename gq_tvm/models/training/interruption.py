"""Ctrl-C in a training: the step is finished and the checkpoint written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gq_tvm import interrupts
from gq_tvm.models.training.trainer import Trainer


@contextmanager
def stopping_on_interrupt(trainer: Trainer) -> Iterator[None]:
    """An interrupt stops the trainer after its step; a second one is raised at once.

    Raises KeyboardInterrupt at the end if there was one, when the checkpoint is written.
    """

    def stop() -> None:
        trainer.stopping = True
        trainer.report("stopping after this step; interrupt again to lose it")

    with interrupts.noted(stop):
        yield
    if trainer.stopping:
        trainer.report(
            f"{trainer.phase}  stopped at step {trainer.step}/{trainer.schedule.steps}, "
            "the checkpoint is written; the same command with --resume goes on"
        )
        raise KeyboardInterrupt
