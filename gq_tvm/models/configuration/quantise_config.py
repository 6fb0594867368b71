"""The table [quantise] of a configuration: what ``quantize.prepare`` is told, and how it trains."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from gq_tvm.models.configuration.config_table import Limits, Table
from gq_tvm.models.training.trainer import Schedule
from gq_tvm.quantize import prepare
from gq_tvm.quantize.allocation.overrides import read_overrides

SCHEDULE_LIMITS: Limits = {
    "steps": (1, None), "learning_rate": (1e-9, 1), "warmup": (0, None), "curriculum": (0, 1),
    "masked": (0, 1), "auxiliary": (0, None), "weight_decay": (0, None),
    "quantiser_rate": (0, None), "clip": (1e-6, None), "evaluate_every": (1, None),
    "save_every": (1, None),
}  # fmt: skip
SCHEDULE: dict[str, Any] = {
    "steps": 1200, "learning_rate": 8e-4, "warmup": 50, "curriculum": (0.0, 0.0), "masked": 0.0,
    "evaluate_every": 250,
}  # fmt: skip
_HARDNESS: Limits = {
    "start": (0.01, None), "end": (0.01, None), "hard": (0, 1), "every": (1, None),
}  # fmt: skip


@dataclass(frozen=True)
class Hardness:
    """Arguments of ``quantize.Annealing``."""

    start: float = 4.0
    end: float = 40.0
    hard: float = 0.3
    every: int = 1


@dataclass(frozen=True)
class Quantise:
    """Arguments of ``quantize.prepare``, the schedule, and the weight of the teacher."""

    options: dict[str, Any]
    hardness: Hardness
    schedule: Schedule
    distillation: float


def read(table: Table) -> Quantise:
    """Read [quantise]; every keyword of ``prepare`` may stand in it.

    The bits of an ``allocation``, a file that ``gq_tvm.allocate`` wrote, come after ``overrides``.
    Raises Error for a key that is unknown or of another type; what only ``prepare`` can tell it
    says itself.
    """
    hardness_table = table.table("hardness")
    hardness = hardness_table.settings(Hardness, _HARDNESS)
    hardness_table.finish()
    if hardness.start > hardness.end:
        hardness_table.refuse("start", hardness.start, f"at most end ({hardness.end:g})")
    distillation = table.number("distillation", 0.0)
    options = _options(table)
    schedule = table.settings(Schedule, SCHEDULE_LIMITS, **SCHEDULE)
    table.finish()
    return Quantise(options, hardness, schedule, distillation)


def _options(table: Table) -> dict[str, Any]:
    parameters = dict(inspect.signature(prepare).parameters)
    del parameters["model"]
    options: dict[str, Any] = {"bits": 4, "activation": "int8"}
    for key in [key for key in parameters if key in table]:
        kind = str(parameters[key].annotation)
        if key == "bits":
            options[key] = table.whole(key, low=1)
        elif key in ("overrides", "activation"):
            options[key] = _patterns(table, key)
        elif kind.startswith("bool"):
            options[key] = table.flag(key, False)
        elif kind.startswith("float"):
            options[key] = table.number(key)
        elif kind.startswith("str"):
            options[key] = table.text(key)
        else:
            options[key] = table.take(key)
    if allocation := table.path("allocation", None):
        own = read_overrides(allocation)
        before = {key: n for key, n in options.get("overrides", {}).items() if key not in own}
        options["overrides"] = {**before, **own}  # a key that stood before would keep its place
    for key in parameters:
        table.take(key, None)  # known, also where it is not given
    return options


def _patterns(table: Table, key: str) -> Any:
    """Bits by pattern, or activations by pattern or for all."""
    value = table.take(key)
    if key == "activation" and isinstance(value, str):
        return value
    kind, wanted = (int, "bits") if key == "overrides" else (str, "activations")
    if not isinstance(value, dict):
        table.refuse(key, value, f"a table of {wanted} by pattern")
    for pattern, one in value.items():
        if isinstance(one, bool) or not isinstance(one, kind):
            table.refuse(
                f'{key}."{pattern}"', one, f"{wanted}; put a pattern with dots into quotes"
            )
    return dict(value)
