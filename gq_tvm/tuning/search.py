"""The search: MetaSchedule's task scheduler and XGBoost cost model, around our own kernels."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import s_tir
from tvm.ir.utils import derived_object
from tvm.runtime import tensor
from tvm.s_tir import meta_schedule as ms
from tvm_ffi import register_error

from gq_tvm import targets
from gq_tvm.tuning.candidate import candidate, meaning, stand_in
from gq_tvm.tuning.features import features
from gq_tvm.tuning.log import Trial
from gq_tvm.tuning.measure import Builder, Note, Runner, runner_result
from gq_tvm.tuning.pool import Pool
from gq_tvm.tuning.strategy import Ranked
from gq_tvm.tuning.task import Task

# An interrupt in one of the callbacks goes through TVM, which else makes a RuntimeError of it.
register_error("KeyboardInterrupt", KeyboardInterrupt)

BATCH = 16  # trials between two trainings of the cost model


def cost_model() -> Any:
    """MetaSchedule's XGBoost model, with features that see vector code; every task teaches it."""
    return ms.cost_model.XGBModel(
        extractor=_Features(),
        config=ms.cost_model.xgb_model.XGBConfig(nthread=1, max_depth=6),
        num_warmup_samples=BATCH,
        early_stopping_rounds=20,
        verbose_eval=0,
    )


def search(
    task: Task,
    known: Sequence[Trial],
    trials: int,
    pool: Pool,
    model: Any,
    note: Note,
    stopped: Callable[[], bool],
) -> None:
    """Try schedules of a task that were not tried before.

    Args:
        task: What to tune.
        known: Trials made before: the model learns from them.
        trials: How many to make, at most.
        pool: Builds and times them.
        model: See `cost_model`.
        note: Called with each trial when it is done.
        stopped: Asked before each trial; once true, no more are made.
    """
    context = _context(task, Ranked(task, known, stopped))
    if known:
        base = s_tir.Schedule(context.mod)
        candidates = [candidate(base, trial.schedule) for trial in known]
        model.update(context, candidates, list(map(runner_result, known)))
    if trials <= 0:
        return
    ms.task_scheduler.RoundRobin().tune(
        tasks=[context],
        task_weights=[1.0],
        max_trials_global=trials,
        max_trials_per_task=trials,
        num_trials_per_iter=BATCH,
        builder=Builder(pool, note, stopped),
        runner=Runner(pool, note, stopped),
        measure_callbacks=[ms.measure_callback.UpdateCostModel()],
        database=None,
        cost_model=model,
    )


def _context(task: Task, strategy: Any) -> Any:
    quiet = logging.getLogger("tvm.s_tir.meta_schedule")
    quiet.setLevel(logging.CRITICAL)
    space = ms.space_generator.ScheduleFn(
        lambda schedule: None, sch_rules=[], postprocs=[], mutator_probs={}
    )
    with _without_tensor_intrinsics():
        return ms.TuneContext(
            stand_in(task),
            target=targets.get(task.target).tvm,
            space_generator=space,
            search_strategy=strategy,
            task_name=str(task),
            num_threads=1,
            rand_state=1,
            logger=quiet,
        )


@contextmanager
def _without_tensor_intrinsics() -> Iterator[None]:
    """Spare the import of TVM's tensor intrinsics: 16 s, for rules that are not used here."""
    name = "tvm.s_tir.tensor_intrin"
    missing = name not in sys.modules
    if missing:
        sys.modules[name] = types.ModuleType(name)
    try:
        yield
    finally:
        if missing:
            del sys.modules[name]


@derived_object
class _Features(ms.feature_extractor.PyFeatureExtractor):
    """`features` of candidates."""

    def extract_from(self, context: Any, candidates: list[Any]) -> list[Any]:
        """One f64 [1, d] tensor for each candidate."""
        return [tensor(features(*meaning(one.sch))) for one in candidates]
