"""The search, in MetaSchedule's terms.

Kernels here are built from knobs, not transformed: a candidate is a small stand-in function whose
block is annotated with a schedule, and builder, runner and features read the annotation. A
family's space is a list of at most a few thousand schedules, so the strategy has no need to evolve
them: it ranks what was not tried by the cost model and takes the best, and some at random.
"""

from __future__ import annotations

import logging
import random
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any

from tvm import IRModule, s_tir
from tvm.ir.utils import derived_object
from tvm.runtime import tensor
from tvm.s_tir import meta_schedule as ms
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm import targets
from gq_tvm.errors import Error
from gq_tvm.schedules import Schedule
from gq_tvm.tuning.bench import Measurement
from gq_tvm.tuning.features import features, fingerprint
from gq_tvm.tuning.log import Trial
from gq_tvm.tuning.task import Task
from gq_tvm.tuning.worker import Pool

BATCH = 16  # trials between two trainings of the cost model
_AT_RANDOM = 0.2  # of a batch
_RANKED = 384  # candidates the cost model looks at for a batch

_TASK, _SCHEDULE, _BLOCK = "gq_tvm.task", "gq_tvm.schedule", "kernel"


def cost_model() -> Any:
    """MetaSchedule's XGBoost model, with features that see vector code; every task teaches it."""
    model = ms.cost_model.XGBModel
    return model(
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
    note: Callable[[Trial], object],
    stopped: Callable[[], bool] = lambda: False,
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
    untried = [one for one in task.space if one not in {trial.schedule for trial in known}]
    strategy = _Ranked(task, untried, [trial.schedule for trial in known], stopped)
    context = _context(task, strategy)
    if known:
        base = s_tir.Schedule(context.mod)
        candidates = [_candidate(base, trial.schedule) for trial in known]
        model.update(context, candidates, [_result(trial) for trial in known])
    trials = min(trials, len(untried))
    ms.task_scheduler.RoundRobin().tune(
        tasks=[context],
        task_weights=[1.0],
        max_trials_global=trials,
        max_trials_per_task=trials,
        num_trials_per_iter=BATCH,
        builder=_Builder(pool, note, stopped),
        runner=_Runner(pool, note, stopped),
        measure_callbacks=[ms.measure_callback.UpdateCostModel()],
        database=None,
        cost_model=model,
    )


def _context(task: Task, strategy: Any) -> Any:
    quiet = logging.getLogger("gq_tvm.tuning")
    quiet.setLevel(logging.CRITICAL)
    logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.CRITICAL)
    space = ms.space_generator.ScheduleFn(
        lambda schedule: None, sch_rules=[], postprocs=[], mutator_probs={}
    )
    with _without_tensor_intrinsics():
        return ms.TuneContext(
            _stand_in(task),
            target=targets.get(task.target).tvm,
            space_generator=space,
            search_strategy=strategy,
            task_name=str(task),
            num_threads=1,
            rand_state=1,
            logger=quiet,
        )


@contextmanager
def _without_tensor_intrinsics() -> Any:
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


def _stand_in(task: Task) -> IRModule:
    """A function with one block to annotate, which says what task it stands for."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", _TASK: task.key})
        y = T.arg("y", T.buffer((1,), "float32"))
        with T.serial(0, 1) as i, T.sblock(_BLOCK):
            at = T.axis.spatial(1, i)
            T.writes([y[at]])
            T.buffer_store(y, T.float32(0), [at])
    return IRModule({"main": builder.get()})


def _candidate(base: Any, schedule: Schedule) -> Any:
    annotated = base.copy()
    annotated.annotate(annotated.get_sblock(_BLOCK), _SCHEDULE, str(schedule))
    return ms.MeasureCandidate(annotated, [])


def _meaning(annotated: Any) -> tuple[Task, Schedule]:
    """The task and schedule of a candidate."""
    block = annotated.get(annotated.get_sblock(_BLOCK))
    task = Task.parse(str(annotated.mod["main"].attrs[_TASK]))
    return task, Schedule.parse(str(block.annotations[_SCHEDULE]))


def _result(trial: Trial) -> Any:
    if trial.cost is None:
        return ms.runner.RunnerResult(None, trial.failure)
    return ms.runner.RunnerResult([1e-6 * trial.cost], None)


@derived_object
class _Features(ms.feature_extractor.PyFeatureExtractor):
    """`features` of candidates."""

    def extract_from(self, context: Any, candidates: list[Any]) -> list[Any]:
        """One f64 [1, d] tensor for each candidate."""
        return [tensor(features(*_meaning(candidate.sch))) for candidate in candidates]


@derived_object
class _Ranked(ms.search_strategy.PySearchStrategy):
    """Takes what the cost model ranks first among the untried, and some at random."""

    def __init__(
        self,
        task: Task,
        untried: Sequence[Schedule],
        tried: Sequence[Schedule],
        stopped: Callable[[], bool],
    ) -> None:
        super().__init__()
        self.task = task
        self.untried = list(untried)
        self.tried = {fingerprint(task, one) for one in tried}
        self.stopped = stopped
        self.random = random.Random(f"{task.key} {len(untried)}")
        self.left = 0

    def _initialize_with_tune_context(self, context: Any) -> None:
        self.context = context

    def pre_tuning(
        self, max_trials: int, batch: int, design_spaces: Any, database: Any, model: Any
    ) -> None:
        """Begin."""
        self.left, self.batch = max_trials, batch
        self.base, self.model = design_spaces[0], model

    def post_tuning(self) -> None:
        """End."""

    def generate_measure_candidates(self) -> list[Any] | None:
        """The next batch; None at the end."""
        count = min(self.batch, self.left)
        taken = self._take(count) if count > 0 and not self.stopped() else []
        self.left -= len(taken)
        return [_candidate(self.base, one) for one in taken] or None

    def _take(self, count: int) -> list[Schedule]:
        """Remove the next `count` from the untried: the default, the best, some by chance."""
        pool = self.random.sample(self.untried, min(len(self.untried), _RANKED))
        if self.task.default in self.untried:
            pool = [self.task.default, *(one for one in pool if one != self.task.default)]
        pool = self._unlike(pool)
        if not pool:
            return []
        candidates = [_candidate(self.base, one) for one in pool]
        scores = dict(zip(pool, self.model.predict(self.context, candidates), strict=True))
        scores |= {one: inf for one in scores if one == self.task.default}
        ranked = sorted(pool, key=lambda one: -scores[one])
        best = ranked[: count - round(_AT_RANDOM * count)]
        others = ranked[len(best) :]
        taken = [*best, *self.random.sample(others, min(len(others), count - len(best)))]
        self.tried |= {fingerprint(self.task, one) for one in taken}
        self.untried = [one for one in self.untried if one not in taken]
        return taken

    def _unlike(self, pool: list[Schedule]) -> list[Schedule]:
        """One schedule for each kernel that was not tried; the others of the pool are given up."""
        kernels = {fingerprint(self.task, one): one for one in reversed(pool)}
        kept = [kernel for key, kernel in kernels.items() if key not in self.tried]
        self.untried = [one for one in self.untried if one in kept or one not in pool]
        return kept

    def notify_runner_results(self, candidates: Any, results: Any) -> None:
        """Nothing: the cost model is told by MetaSchedule."""

    def clone(self) -> Any:
        """A strategy for the same task."""
        return _Ranked(self.task, self.untried, [], self.stopped)


@derived_object
class _Builder(ms.builder.PyBuilder):
    """Builds and checks kernels in the workers; those that are wrong fail."""

    def __init__(
        self, pool: Pool, note: Callable[[Trial], object], stopped: Callable[[], bool]
    ) -> None:
        super().__init__()
        self.pool = pool
        self.note = note
        self.stopped = stopped

    def build(self, inputs: list[Any]) -> list[Any]:
        """What became of each; the path of a built one is its key."""
        meanings = [_meaning(s_tir.Schedule(one.mod)) for one in inputs]
        if self.stopped():
            return [ms.builder.BuilderResult(None, "stopped") for _ in meanings]
        task = meanings[0][0]
        failures = self.pool.build(task, [schedule for _, schedule in meanings])
        results = []
        for (_, schedule), failure in zip(meanings, failures, strict=True):
            if failure:
                self.note(Trial(schedule, None, failure))
            path = None if failure else f"{task.key}\n{schedule}"
            results.append(ms.builder.BuilderResult(path, failure or None))
        return results


@derived_object
class _Runner(ms.runner.PyRunner):
    """Times built kernels, one after the other."""

    def __init__(
        self, pool: Pool, note: Callable[[Trial], object], stopped: Callable[[], bool]
    ) -> None:
        super().__init__()
        self.pool = pool
        self.note = note
        self.stopped = stopped

    def run(self, inputs: list[Any]) -> list[Any]:
        """A future for each, done already."""
        return [_Done(self._time(*str(one.artifact_path).split("\n"))) for one in inputs]

    def _time(self, key: str, text: str) -> Any:
        if self.stopped():
            return ms.runner.RunnerResult(None, "stopped")
        schedule = Schedule.parse(text)
        try:
            measured: Measurement | None = self.pool.time(Task.parse(key), schedule)
            trial = Trial(schedule, measured)
        except Error as failure:
            trial = Trial(schedule, None, str(failure))
        self.note(trial)
        return _result(trial)


@derived_object
class _Done(ms.runner.PyRunnerFuture):
    """The result of a run that is over."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self._result = result

    def done(self) -> bool:
        """It is."""
        return True

    def result(self) -> Any:
        """The result."""
        return self._result
