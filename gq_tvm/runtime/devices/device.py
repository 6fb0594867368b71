"""Where compiled code runs: this process, or a device on the far side of TVM's RPC."""

from __future__ import annotations

import errno
import os
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from gq_tvm.errors import Error
from gq_tvm.runtime import threads
from gq_tvm.runtime.devices import probe
from gq_tvm.runtime.devices.connection import Connection, reachable
from gq_tvm.runtime.memory import shareable
from gq_tvm.targets import native

SILENCE = 300.0  # seconds a device may take for one call before it is given up
_BIG_CORES = 1  # tvm/src/runtime/threading_backend.h, kBig


class DeviceLost(Error):
    """A device is not there any more: its connection broke, or nobody answers at its address."""


class Device(ABC):
    """A CPU that loads libraries, holds tensors and runs kernels.

    Attributes:
        name: What to call it in messages.
        cpu: The `tvm.runtime.Device` its tensors live on.
    """

    name: str
    cpu: Any

    @property
    @abstractmethod
    def machine(self) -> str:
        """Architecture of the libraries it loads: ``"x86_64"`` or ``"aarch64"``."""

    @property
    @abstractmethod
    def features(self) -> frozenset[str]:
        """CPU features, by the names `Target.features` uses."""

    @abstractmethod
    def load_module(self, path: str | Path) -> Any:
        """Load a shared library file of this machine and return its TVM module.

        Raises `Error` if the device refuses it.
        """

    @abstractmethod
    def tensor(self, array: np.ndarray) -> Any:
        """Return `array` (any shape, any dtype of TVM) as a tensor of this device."""

    @abstractmethod
    def use_threads(self, count: int) -> None:
        """Let kernels compiled for several threads use ``count`` of them, at most one a CPU.

        In this process it holds for the calling thread, over RPC for the connection.
        """

    def guard(self) -> AbstractContextManager[None]:
        """Return a context in which losing the device is a `DeviceLost`.

        Wrap calls of kernels in it; `load_module` and `tensor` do so by themselves.
        """
        return nullcontext()

    @abstractmethod
    def close(self) -> None:
        """Give up the device."""

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


class LocalDevice(Device):
    """This process."""

    name = "this machine"

    def __init__(self) -> None:
        self.cpu = tvm.cpu()

    @property
    def machine(self) -> str:
        """See `Device.machine`."""
        return native.machine()

    @property
    def features(self) -> frozenset[str]:
        """See `Device.features`."""
        return native.features()

    def load_module(self, path: str | Path) -> Any:
        """See `Device.load_module`."""
        try:
            return tvm.runtime.load_module(str(Path(path).absolute()))
        except Exception as problem:
            raise Error(f"cannot load {path}: {_reason(problem)}") from problem

    def tensor(self, array: np.ndarray) -> Any:
        """Return the tensor; without a copy where the memory is contiguous and aligned to 64 bytes.

        The tensor keeps the array alive. One made of a read-only array (a mapped file) shares its
        pages and must only be read.
        """
        if not shareable(array):
            return tvm.runtime.tensor(array)
        return tvm.runtime.from_dlpack(array if array.flags.writeable else _writable(array))

    def use_threads(self, count: int) -> None:
        """See `Device.use_threads`."""
        threads.use(count)

    def close(self) -> None:
        """Do nothing: the process goes on."""


class RpcDevice(Device):
    """A device that runs a TVM RPC server; it is asked what CPU it has."""

    def __init__(
        self,
        host: str,
        port: int,
        name: str = "",
        why_lost: Callable[[], str] | None = None,
        silence: float = SILENCE,
    ) -> None:
        """Connect to the server at `host`:`port`.

        `why_lost` may return what is known of the reason when the connection is lost; a call that
        takes more than `silence` seconds loses it. Raises `DeviceLost` if nobody answers.
        """
        self.name = name or f"the device at {host}:{port}"
        self._address = host, port
        self._silence = silence
        self._why_lost = why_lost or (lambda: "")
        self._lost: str | None = None
        self._threads = 0  # what the far side was told last
        try:
            self._connection = Connection(host, port, silence)
        except Exception as problem:
            raise DeviceLost(
                f"no TVM RPC server answers at {host}:{port} ({_reason(problem)}): "
                "start one as `python -m gq_tvm.device --help` says"
            ) from problem
        self._session: Any = self._connection.session
        self.cpu = self._session.cpu()

    @property
    def session(self) -> Any:
        """The connection as TVM knows it."""
        return self._session

    @property
    def machine(self) -> str:
        """See `Device.machine`."""
        return self.probed.machine

    @property
    def features(self) -> frozenset[str]:
        """See `Device.features`."""
        return self.probed.features

    @cached_property
    def probed(self) -> probe.Cpu:
        """What the device says of its CPU."""
        refusals = []
        for machine in probe.TRIPLES:
            with tempfile.TemporaryDirectory() as folder:
                path = f"{folder}/probe.so"
                probe.build(machine, path)
                try:
                    module = self._upload(path)
                except tvm.error.RPCError as problem:  # a library for another machine
                    refusals.append(_reason(problem))
                    continue
            answer = self.tensor(np.zeros(probe.SIZE, np.uint8))
            with self.guard():
                module["probe"](answer)
                return probe.read(machine, answer.numpy())
        raise Error(f"{self.name} is neither 64-bit ARM nor x86-64 ({refusals[0]})")

    def _upload(self, path: str | Path) -> Any:
        # A name of its own each time: overwriting a library in use crashes the server.
        remote = f"{uuid.uuid4().hex}.so"
        with self.guard():
            self._session.upload(str(path), remote)
            return self._session.load_module(remote)

    def load_module(self, path: str | Path) -> Any:
        """See `Device.load_module`."""
        try:
            return self._upload(path)
        except (tvm.error.RPCError, OSError) as problem:
            raise Error(f"{self.name} cannot load {path}: {_reason(problem)}") from problem

    def tensor(self, array: np.ndarray) -> Any:
        """Return a copy of `array` on the device."""
        whole = array if array.flags.c_contiguous else array.copy()  # of no dimension stays so
        with self.guard():
            return tvm.runtime.tensor(whole, self.cpu)

    def use_threads(self, count: int) -> None:
        """See `Device.use_threads`; the fastest cores come first, each thread bound to one."""
        if self._threads != count:
            with self.guard():
                self._session.get_function("runtime.config_threadpool")(_BIG_CORES, count)
            self._threads = count

    @contextmanager
    def _guard(self) -> Iterator[None]:
        if self._lost:
            raise DeviceLost(self._lost)
        try:
            yield
        except tvm.error.RPCError:  # an error of the device's code: the device is still there
            raise
        except DeviceLost:  # of a guard inside this one
            raise
        except Exception as problem:
            silent = os.strerror(errno.EAGAIN) in str(problem)  # what SO_RCVTIMEO ends with
            if not silent and self._answers():
                raise
            self._connection.cut()
            self._lost = self._how_lost(silent)
            raise DeviceLost(self._lost) from problem

    def _how_lost(self, silent: bool) -> str:
        """Say how the device was lost, and what to do."""
        if silent:
            return (
                f"{self.name} has not answered for {self._silence:g} s and was given up: see that "
                "it is well, then start again"
            )
        why = self._why_lost()
        lost = f"the connection to {self.name} was lost{why and f' ({why})'}"
        try:
            reachable(*self._address)
        except OSError:
            return f"{lost} and nobody answers there now: see that it is up, then start again"
        return (
            f"{lost} while the device goes on, so the code it ran must have crashed: connect again"
        )

    def guard(self) -> AbstractContextManager[None]:
        """See `Device.guard`."""
        return self._guard()

    @property
    def alive(self) -> bool:
        """Whether the connection still works."""
        return self._lost is None and self._answers()

    def _answers(self) -> bool:
        try:
            self._session.get_function("tvm.rpc.server.workpath")("")
        except Exception:
            return False
        return True

    def close(self) -> None:
        """End the session, as soon as its last tensor and module are gone."""
        self._lost = self._lost or f"the connection to {self.name} is closed: connect again"
        self._session = self._connection.session = self.cpu = None
        self._connection.close()


def connect(address: str | None = None) -> Device:
    """Return the device commands mean by ``--rpc HOST:PORT``, or this process for None.

    Raises `Error` if the address is malformed, `DeviceLost` if nobody answers.
    """
    if address is None:
        return LocalDevice()
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Error(f"{address!r} is not HOST:PORT: write for example --rpc 192.168.1.7:9090")
    return RpcDevice(host, int(port))


class _Writable:
    """A read-only array's memory, declared writable: DLPack has no word for read-only."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array  # keeps the memory alive
        self.__array_interface__ = {
            **array.__array_interface__,
            "data": (array.ctypes.data, False),
        }


def _writable(array: np.ndarray) -> np.ndarray:
    return np.asarray(_Writable(array))


def _reason(problem: Exception) -> str:
    """Return the last line of an exception's text: TVM puts the cause there."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    lines = str(problem).strip().splitlines()
    return lines[-1].strip() if lines else type(problem).__name__
