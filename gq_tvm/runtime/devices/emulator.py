"""An ARM board in a process: QEMU runs a TVM RPC server of 64-bit ARM on this machine.

It computes exactly what a board computes and refuses what a board's CPU refuses; its timings say
nothing about a board.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Callable
from typing import IO, Any

from gq_tvm import cache
from gq_tvm.errors import Error
from gq_tvm.runtime.devices import board
from gq_tvm.runtime.devices.board import CPUS
from gq_tvm.runtime.devices.device import RpcDevice
from gq_tvm.runtime.threads import SPIN_VARIABLE, SPINS
from gq_tvm.toolchain import debian

SETUP_COMMAND = "python -m gq_tvm.device --setup-only"
_START_TIMEOUT = 60.0  # seconds; a start takes 0.2


def available(cache_dir: str | os.PathLike[str] | None = None) -> tuple[bool, str]:
    """Return whether the emulated device is set up, and otherwise one line on how to get it."""
    if board.locate(cache_dir).complete():
        return True, ""
    able, reason = debian.available()
    if not able:
        return False, f"the emulated ARM device cannot be set up here: {reason}"
    return False, f"the emulated ARM device is not set up: run `{SETUP_COMMAND}`"


def setup(
    cache_dir: str | os.PathLike[str] | None = None, progress: Callable[[str], object] = print
) -> board.Installation:
    """Set up the emulated device in the cache (see `cache.root`), if it is not there yet.

    Downloads about 120 MB, keeps about 30 MB. Raises `Error` if the machine does not allow it; an
    interrupted call leaves nothing half done, and calls at the same time wait for each other.
    """
    installation = board.locate(cache_dir)
    cache.provide(
        installation.folder,
        lambda folder: _build(board.Installation(folder), progress),
        lambda folder: board.Installation(folder).complete(),
    )
    return installation


def _build(made: board.Installation, progress: Callable[[str], object]) -> None:
    board.build(made, progress)
    with EmulatedDevice(CPUS[0], installation=made):
        pass  # it starts, so the pieces fit


class EmulatedDevice:
    """A running RPC server on an emulated ARM CPU; a context manager.

    A kernel that crashes ends its own connection and nothing else; `connect` then gives a new one,
    and starts the server again should it have died. It ends with the context, with this process
    however that ends, or with `close`.
    """

    def __init__(
        self,
        cpu: str = "cortex-a72",
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        installation: board.Installation | None = None,
    ) -> None:
        """Start the server on `host`:`port` (0: any free port) with a CPU model out of `CPUS`.

        Raises `Error` if the device is not set up (see `setup`) or does not start.
        """
        if cpu not in CPUS:
            raise Error(f"QEMU has no CPU {cpu!r}: choose one of {', '.join(CPUS)}")
        if installation is None:
            able, reason = available()
            if not able:
                raise Error(reason)
            installation = board.locate()
        self.cpu = cpu
        self.host = host
        self.port = port
        self._installation = installation
        self._start()

    def _start(self) -> None:
        installation = self._installation
        command = [str(installation.qemu), "-L", str(installation.sysroot), "-cpu", self.cpu]
        command += installation.server(["--until-eof"], self.host, self.port)
        # Of the host's variables only those that mean the same on the device.
        kept = {k: v for k, v in os.environ.items() if k in ("TMPDIR", "HOME", "TVM_NUM_THREADS")}
        kept[SPIN_VARIABLE] = str(SPINS)
        with tempfile.TemporaryFile("w+") as complaints:
            process = subprocess.Popen(
                command,
                env=kept,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
            self._process = process
            self._events: queue.SimpleQueue[str] = queue.SimpleQueue()
            threading.Thread(
                target=_forward, args=(process.stdout, self._events), daemon=True
            ).start()
            self._stop = weakref.finalize(self, _stop, process)
            try:
                first = self._events.get(timeout=_START_TIMEOUT).split()
            except queue.Empty:
                first = []
            if first[:1] != ["listening"]:
                self._stop()
                complaints.seek(0)
                reason = (complaints.read().strip().splitlines() or ["no reason given"])[-1]
                raise Error(f"the emulated {self.cpu} did not start ({reason})")
        self.port = int(first[1])

    @property
    def address(self) -> str:
        """What to give to ``--rpc``."""
        return f"{self.host}:{self.port}"

    def connect(self) -> RpcDevice:
        """Return a new connection; the server is started again if it died."""
        if not self._stop.alive:
            raise Error(f"the emulated {self.cpu} was closed: start another one")
        if self._process.poll() is not None:
            self._stop()
            self._start()
        while not self._events.empty():  # what ended before is not what ends next
            self._events.get()
        return RpcDevice(
            self.host, self.port, name=f"the emulated {self.cpu}", why_lost=self._why_lost
        )

    def _why_lost(self) -> str:
        """Return what the server said about the session that ended last."""
        try:
            while True:
                event = self._events.get(timeout=1.0).split()
                if event[2:3] == ["signal"]:
                    name = signal.Signals(int(event[3])).name
                    hint = f": an instruction that {self.cpu} lacks" if name == "SIGILL" else ""
                    return f"its code was ended by {name}{hint}"
                if not event:
                    return "the server died"
        except queue.Empty:
            return "no reason known"

    def wait(self) -> None:
        """Wait until the server ends."""
        self._process.wait()

    def close(self) -> None:
        """Stop the server and every session of it."""
        self._stop()

    def __enter__(self) -> EmulatedDevice:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def _forward(lines: IO[str] | None, events: queue.SimpleQueue[str]) -> None:
    assert lines is not None
    for line in lines:
        events.put(line)
    events.put("")  # the server is gone


def _stop(process: subprocess.Popen[Any]) -> None:
    if process.stdin is not None:
        process.stdin.close()  # --until-eof: the server ends its sessions and leaves
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
