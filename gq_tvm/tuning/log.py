"""The log of trials: JSON lines, so that tuning goes on where it was stopped.

A line is written at once when its trial is done; a last line that was cut off is ignored. What was
measured on another CPU, or of kernels whose source has changed since, counts no more. What a board
ran when it was lost is written down too: the second time, it is a failure.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gq_tvm import schedules
from gq_tvm.errors import Error
from gq_tvm.schedules import Schedule
from gq_tvm.schedules.choosing.database import cost
from gq_tvm.tuning.bench import Measurement
from gq_tvm.tuning.task import Task


@dataclass(frozen=True)
class Trial:
    """What became of a schedule: it was timed, or `failure` says what was wrong."""

    schedule: Schedule
    measurement: Measurement | None
    failure: str = ""

    @property
    def cost(self) -> float | None:
        """Microseconds to rank it by; None if it failed."""
        if self.measurement is None:
            return None
        return cost(self.measurement.hot, self.measurement.cold)


class Log:
    """A file of trials, kept open to append to.

    Attributes:
        path: Where it is.
    """

    def __init__(self, path: Path, cpu: str, model: str = "") -> None:
        """Open `path`, which need not exist, for what is measured on `cpu`, or modelled by `model`.

        Raises:
            Error: it cannot be read or written.
        """
        self.path = path
        self._about = {"cpu": cpu, "kernels": kernels_digest()}
        if model:
            self._about["model"] = model
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            text = path.read_text(encoding="utf-8", errors="replace")
            if text and not text.endswith("\n"):
                os.write(self._file, b"\n")  # ends the line that was cut off
        except OSError as failure:
            reason = failure.strerror
            raise Error(f"cannot write {path}: {reason}; name another --database") from failure
        self._trials: dict[str, dict[Schedule, Trial]] = {}
        self._decided: dict[str, int] = {}
        self._lost: set[tuple[str, Schedule]] = set()
        for record in _records(text):
            self._remember(record)

    def trials(self, task: Task) -> dict[Schedule, Trial]:
        """The trials of a task, by schedule, in the order they were made."""
        return dict(self._trials.get(task.key, {}))

    def decided(self, task: Task) -> bool:
        """Whether a winner was found and no trial was made since."""
        return self._decided.get(task.key) == len(self._trials.get(task.key, {}))

    def add(self, task: Task, trial: Trial) -> None:
        """Note a trial."""
        times = vars(trial.measurement) if trial.measurement else {"failure": trial.failure}
        self._write({"task": task.key, "schedule": str(trial.schedule), **times})

    def lose(self, task: Task, schedule: Schedule, reason: str) -> None:
        """Note that the board was lost while it ran a schedule."""
        self._write({"task": task.key, "schedule": str(schedule), "lost": reason})

    def decide(self, task: Task) -> None:
        """Note that the winner among the trials so far is in the database."""
        self._write({"task": task.key, "decided": len(self._trials.get(task.key, {}))})

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, record: dict[str, Any]) -> None:
        line = json.dumps({**record, **self._about}) + "\n"
        os.write(self._file, line.encode())  # one call: whole lines, whoever else appends
        self._remember({**record, **self._about})

    def _remember(self, record: dict[str, Any]) -> None:
        if any(record.get(key) != value for key, value in self._about.items()):
            return
        task = record["task"]
        if "decided" in record:
            self._decided[task] = record["decided"]
            return
        schedule = Schedule.parse(record["schedule"])
        failure = record.get("failure", "")
        if "lost" in record:
            if (task, schedule) not in self._lost:
                self._lost.add((task, schedule))
                return
            failure = "the board was lost twice while it ran"
        measurement = None if failure else Measurement(record["hot"], record["cold"])
        trial = Trial(schedule, measurement, failure)
        self._trials.setdefault(task, {})[schedule] = trial


def _records(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            record = json.loads(line)
            Schedule.parse(record.get("schedule", ""))
            record["task"]
        except (ValueError, KeyError, AttributeError, Error):
            continue
        yield record


@cache
def kernels_digest() -> str:
    """A key of the source all kernels are made of."""
    digest = hashlib.sha256()
    for folder in schedules.__path__:
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
