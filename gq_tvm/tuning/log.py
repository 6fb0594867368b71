"""The log of trials: JSON lines, so that tuning goes on where it was stopped.

A line is written at once when its trial is done; a last line that was cut off is ignored. What was
measured on another CPU, or of a kernel that has changed since, counts no more. What a board ran
when it was lost is written down too: the second time, it is a failure.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gq_tvm.errors import Error
from gq_tvm.schedules import Schedule
from gq_tvm.schedules.choosing.database import cost
from gq_tvm.tuning.bench import Measurement
from gq_tvm.tuning.task import Task, fingerprint


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
        self._about = {"cpu": cpu}
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
        self._trials: dict[str, dict[Schedule, tuple[str, Trial]]] = {}  # with the kernels' hashes
        self._decided: set[str] = set()
        self._lost: set[tuple[str, str]] = set()  # tasks and kernels
        for record in _records(text):
            self._remember(record)

    def trials(self, task: Task) -> dict[Schedule, Trial]:
        """The trials of a task, by schedule, in the order they were made."""
        return {
            schedule: trial
            for schedule, (kernel, trial) in self._trials.get(task.key, {}).items()
            if kernel == fingerprint(task, schedule)
        }

    def decided(self, task: Task) -> bool:
        """Whether a winner was found, and since then no trial made and no kernel changed."""
        all_made = self._trials.get(task.key, {})
        return task.key in self._decided and len(self.trials(task)) == len(all_made)

    def add(self, task: Task, trial: Trial) -> None:
        """Note a trial."""
        times = vars(trial.measurement) if trial.measurement else {"failure": trial.failure}
        self._write({**_of(task, trial.schedule), **times})

    def lose(self, task: Task, schedule: Schedule, reason: str) -> None:
        """Note that the board was lost while it ran a schedule."""
        self._write({**_of(task, schedule), "lost": reason})

    def decide(self, task: Task) -> None:
        """Note that the winner among the trials so far is in the database."""
        self._write({"task": task.key, "decided": True})

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
            self._decided.add(task)
            return
        schedule, kernel = Schedule.parse(record["schedule"]), record["kernel"]
        failure = record.get("failure", "")
        if "lost" in record:
            if (task, kernel) not in self._lost:
                self._lost.add((task, kernel))
                return
            failure = "the board was lost twice while it ran"
        measurement = None if failure else Measurement(record["hot"], record["cold"])
        trial = Trial(schedule, measurement, failure)
        self._trials.setdefault(task, {})[schedule] = (kernel, trial)
        self._decided.discard(task)


def _of(task: Task, schedule: Schedule) -> dict[str, str]:
    return {"task": task.key, "schedule": str(schedule), "kernel": fingerprint(task, schedule)}


def _records(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            record = json.loads(line)
            Schedule.parse(record.get("schedule", ""))
            record["task"]
            record["decided" if "decided" in record else "kernel"]
        except (ValueError, KeyError, AttributeError, Error):
            continue
        yield record
