"""How a function of a loaded library is called with arrays: in this process, or over RPC.

TVM's virtual machine does one thing at a time; each call holds its model's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from gq_tvm.runtime.devices import ALIGNMENT, Device, shareable
from gq_tvm.runtime.manifest import Function

Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Prepared:
    """What calls with inputs of certain shapes have ready.

    Attributes:
        inputs: Memory for them.
        arguments: What the function takes.
        outputs: Where a function that is one kernel writes its results; None of others.
    """

    inputs: list[Any]
    arguments: list[Any]
    outputs: list[np.ndarray] | None = None


@dataclass
class _Calls:
    """A function and what is needed to call it.

    Attributes:
        machine: The virtual machine.
        name: The function's name.
        about: What the manifest says of it.
        weights: The parameters behind its inputs.
        device: What runs it.
        lock: Held while the machine is at work.
        library: The kernels; None where they are out of reach.
    """

    machine: Any
    name: str
    about: Function
    weights: list[Any]
    device: Device
    lock: AbstractContextManager[Any]
    library: Any


@dataclass
class LocalCalls(_Calls):
    """Calls of a function in this process.

    Inputs are copied to aligned memory that TVM knows already: cheaper than telling it of new
    memory, and any layout will do.
    """

    def __post_init__(self) -> None:
        kernel = self.about.kernel
        self._kernel: Any = self.library[kernel[0]] if kernel else None
        self._function = self.machine[self.name]

    def prepare(self, inputs: Arrays, outputs: Sequence[tuple[tuple[int, ...], str]]) -> Prepared:
        """Make ready for calls with inputs of these shapes.

        Of a function that is one kernel, ``outputs`` tells shape and dtype of each.
        """
        buffers = [aligned(x.shape, x.dtype) for x in inputs]
        tensors = [*map(self.device.tensor, buffers)]
        made = [aligned(shape, np.dtype(dtype)) for shape, dtype in outputs]
        if made and all(map(shareable, made)):
            return Prepared(buffers, self._kernel_arguments(tensors, made), made)
        return Prepared(buffers, [*tensors, *self.weights])

    def __call__(self, prepared: Prepared, inputs: Arrays, threads: int) -> Any:
        """Return an array or a tuple of arrays, the caller's own.

        ``threads`` is 0 for code that knows of none.
        """
        with self.lock:
            if threads:
                self.device.use_threads(threads)
            for buffer, x in zip(prepared.inputs, inputs, strict=True):
                buffer[...] = x
            if prepared.outputs is not None:
                self._kernel(*prepared.arguments)
                if self.about.single:
                    return prepared.outputs[0].copy()
                return tuple([one.copy() for one in prepared.outputs])
            result = self._function(*prepared.arguments)
            # Copied, as TVM may give back its input or a weight.
            if self.about.single:
                return np.from_dlpack(result).copy()
            return tuple([np.from_dlpack(one).copy() for one in result])

    def bind(self, inputs: Arrays, outputs: Arrays, threads: int) -> Any:
        """Return ``run()``, which reads these inputs and writes these outputs.

        Inputs are read where they lie if TVM can read them there, and if no output that is written
        while others are still to be copied is among them.
        """
        copies, tensors = [], []
        for x in inputs:
            ours = x
            if not shareable(x) or any(np.may_share_memory(x, y) for y in outputs):
                ours = aligned(x.shape, x.dtype)
                copies.append((ours, x))
            tensors.append(self.device.tensor(ours))
        before = self._before(copies, threads)
        if self._kernel is not None and all(map(shareable, outputs)):
            return self._bind_kernel(tensors, outputs, before)
        lock, call = self.lock, partial(self._function, *tensors, *self.weights)

        def run_single() -> None:
            with lock:
                before()
                outputs[0][...] = np.from_dlpack(call())

        def run() -> None:
            with lock:
                before()
                for y, one in zip(outputs, call(), strict=True):
                    y[...] = np.from_dlpack(one)

        return run_single if self.about.single else run

    def _bind_kernel(self, inputs: Sequence[Any], outputs: Arrays, before: Any) -> Any:
        """Return ``run()`` of a function that is one kernel: it writes the outputs itself.

        The virtual machine has no part in it, nor its lock: that is a third of the time of a small
        layer, and most of it where the caches are cold.
        """
        kernel = partial(self._kernel, *self._kernel_arguments(inputs, outputs))
        if before is _nothing:
            return kernel

        def run() -> None:
            before()
            kernel()

        return run

    def _before(self, copies: Sequence[tuple[np.ndarray, np.ndarray]], threads: int) -> Any:
        """What a bound call does first: take its threads, copy the inputs TVM cannot read."""
        if not threads and not copies:
            return _nothing
        device = self.device

        def before() -> None:
            if threads:
                device.use_threads(threads)
            for ours, x in copies:
                ours[...] = x

        return before

    def _kernel_arguments(self, inputs: Sequence[Any], outputs: Arrays) -> list[Any]:
        """What the kernel takes: its inputs and weights by their names, then the outputs."""
        assert self.about.kernel is not None
        _, *names = self.about.kernel
        known = dict(zip([one.name for one in self.about.inputs], inputs, strict=True))
        known |= zip(self.about.parameters, self.weights, strict=True)
        return [*(known[name] for name in names), *map(self.device.tensor, outputs)]


class RemoteCalls(_Calls):
    """Calls of a function over RPC, which passes no tuples: inputs are set, outputs fetched."""

    def prepare(self, inputs: Arrays, outputs: object = ()) -> Prepared:
        """Make ready for calls with inputs of these shapes."""
        tensors = [self.device.tensor(x) for x in inputs]
        return Prepared(tensors, [*tensors, *self.weights])

    def __call__(self, prepared: Prepared, inputs: Arrays, threads: int) -> Any:
        """See `LocalCalls.__call__`."""
        outputs = self._run(prepared, inputs, threads)
        return outputs[0] if self.about.single else outputs

    def bind(self, inputs: Arrays, outputs: Arrays, threads: int) -> Any:
        """Return ``run()``, which sends these inputs and fetches these outputs."""
        prepared = self.prepare(inputs)

        def run() -> None:
            for y, one in zip(outputs, self._run(prepared, inputs, threads), strict=True):
                y[...] = one

        return run

    def _run(self, prepared: Prepared, inputs: Arrays, threads: int) -> tuple[np.ndarray, ...]:
        with self.lock, self.device.guard():
            if threads:
                self.device.use_threads(threads)
            for tensor, x in zip(prepared.inputs, inputs, strict=True):
                if x.size:
                    tensor.copyfrom(x)
            self.machine.set_input(self.name, *prepared.arguments)
            self.machine.invoke_stateful(self.name)
            outputs = self.machine.get_outputs(self.name)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            return tuple(one.numpy() for one in outputs)


def _nothing() -> None:
    pass


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of zeros whose memory is aligned as TVM's code wants it."""
    size = prod(shape) * dtype.itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
