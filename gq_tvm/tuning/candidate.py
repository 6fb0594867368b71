"""Schedules as MetaSchedule's candidates.

Kernels here are built from knobs, not transformed: a candidate is a small stand-in function that
names its task, with its one block annotated by a schedule.
"""

from __future__ import annotations

from typing import Any

from tvm import IRModule
from tvm.s_tir import meta_schedule as ms
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules import Schedule
from gq_tvm.tuning.task import Task

_TASK, _SCHEDULE, _BLOCK = "gq_tvm.task", "gq_tvm.schedule", "kernel"


def stand_in(task: Task) -> IRModule:
    """The function that stands for a task's kernel."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", _TASK: task.key})
        y = T.arg("y", T.buffer((1,), "float32"))
        with T.serial(0, 1) as i, T.sblock(_BLOCK):
            at = T.axis.spatial(1, i)
            T.writes([y[at]])
            T.buffer_store(y, T.float32(0), [at])
    return IRModule({"main": builder.get()})


def candidate(base: Any, schedule: Schedule) -> Any:
    """A candidate: a copy of `base`, which is TVM's schedule of a stand-in, annotated."""
    annotated = base.copy()
    annotated.annotate(annotated.get_sblock(_BLOCK), _SCHEDULE, str(schedule))
    return ms.MeasureCandidate(annotated, [])


def meaning(annotated: Any) -> tuple[Task, Schedule]:
    """The task and the schedule an annotated stand-in means."""
    block = annotated.get(annotated.get_sblock(_BLOCK))
    task = Task.parse(str(annotated.mod["main"].attrs[_TASK]))
    return task, Schedule.parse(str(block.annotations[_SCHEDULE]))
