"""A process in which one reader is given files, one after the other, each within limits."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from fuzz import one_case
from fuzz.one_case import Fault
from fuzz.readers import Reader

SECONDS = 60  # after which a reader hangs, also where many share a core
_SHOWN = 3000  # characters of what a process that ended had said


@dataclass
class Worker:
    """What one reader is given.

    Attributes:
        reader: It.
        folder: Where its files lie; those that it failed at stay.
        seed: The next.
        left: How many files are left, None for any number.
        seconds: How long there are some.
        done: How many files there were.
        faults: By kind, the first seed of each and what was wrong.
    """

    reader: Reader
    folder: Path
    seed: int
    left: int | None
    seconds: float
    done: int = 0
    faults: dict[str, tuple[int, Fault]] = field(default_factory=dict)
    _good: list[bytes] = field(default_factory=list)
    _deadline: float = 0

    def prepare(self) -> None:
        """Make the good files; raises AssertionError if the reader refuses one."""
        self.folder.mkdir(parents=True)
        self._good = self.reader.good(self.folder)
        for content in self._good:
            (self.folder / self.reader.file).write_bytes(content)
            self.reader.read(self.folder / self.reader.file)

    def start(self) -> int:
        """Begin, or go on, in a process of its own; returns its number."""
        self._deadline = self._deadline or time.monotonic() + self.seconds
        for file in ("state", "faults", "said"):
            (self.folder / file).unlink(missing_ok=True)
        sys.stdout.flush()
        number = os.fork()
        if not number:
            code = 1
            try:
                self._run()
                code = 0
            finally:
                os._exit(code)
        return number

    def ended(self, status: int) -> bool:
        """Look at what the process left that has ended; whether all is done."""
        seed, done = json.loads((self.folder / "state").read_text())
        file = self.folder / "faults"
        for line in file.read_text().splitlines() if file.exists() else ():
            its, kind, account = json.loads(line)
            self._found(its, Fault(kind, account))
        code = os.waitstatus_to_exitcode(status)
        if code:
            said = (self.folder / "said").read_text(errors="replace")[-_SHOWN:]
            kind = f"hangs: {_place(said)}" if "Timeout (" in said else f"ends with {code}"
            self._found(seed, Fault(kind, said))
            done += 1
        self.done += done
        self.seed = seed + 1
        if self.left is not None:
            self.left -= done
        return not code

    def _found(self, seed: int, fault: Fault) -> None:
        if fault.kind not in self.faults:
            self.faults[fault.kind] = seed, fault
            content = one_case.made(self.reader, self._good, seed)
            (self.folder / f"{seed}-{self.reader.file}").write_bytes(content)

    def _run(self) -> None:
        said = os.open(self.folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(said, stream)
        one_case.limited()
        faulthandler.enable(said)
        path, done = self.folder / self.reader.file, 0
        while self.left is None or done < self.left:
            if self.left is None and time.monotonic() > self._deadline:
                break
            (self.folder / "state").write_text(json.dumps([self.seed, done]))
            path.write_bytes(one_case.made(self.reader, self._good, self.seed))
            faulthandler.dump_traceback_later(SECONDS, exit=True, file=said)
            fault = one_case.tried(self.reader, path)
            faulthandler.cancel_dump_traceback_later()
            if fault:
                with (self.folder / "faults").open("a") as file:
                    file.write(json.dumps([self.seed, fault.kind, fault.account]) + "\n")
            self.seed += 1
            done += 1
        (self.folder / "state").write_text(json.dumps([self.seed - 1, done]))


def _place(said: str) -> str:
    """The first place of ours in what faulthandler said."""
    lines = [one.strip() for one in said.splitlines() if "gq_tvm" in one]
    return lines[0] if lines else "at an unknown place"
