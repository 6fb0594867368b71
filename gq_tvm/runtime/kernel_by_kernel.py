"""Plans run by TVM, kernel by kernel: on boards, and where kernels call functions of TVM's own."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gq_tvm.errors import Error
from gq_tvm.plan.plan import Function, Operand, Plan, Value
from gq_tvm.plan.size import evaluate
from gq_tvm.runtime.artefact import weights
from gq_tvm.runtime.artefact.folder import (
    KERNELS,
    WEIGHTS,
    check_device,
    check_files,
    check_runtime,
)
from gq_tvm.runtime.devices.device import Device

# What TVM raises where code and arguments do not fit, and NumPy where memory is short.
_FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, BufferError, MemoryError)


class KernelByKernel:
    """A model on a device; see `binding.Core`, whose methods these are."""

    def __init__(self, plan: Plan, path: str | os.PathLike[str], device: Device) -> None:
        """Load kernels and weights.

        Raises:
            Error: they are damaged, or for another CPU than the device's.
        """
        check_files(path, plan)
        check_runtime(path, plan.machine)
        check_device(path, plan, device.machine, device.features)
        self.plan = plan
        self.device = device
        self.lock = threading.RLock()  # a run takes it, and a call around the run
        self.kernels = device.load_module(Path(path) / KERNELS)
        arrays = weights.mapped(Path(path) / WEIGHTS)
        self.weights = {name: device.tensor(array) for name, array in arrays.items()}

    def bind(
        self,
        function: str,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
        threads: int,
    ) -> Run:
        """Tie a function to arrays; each run sends the inputs and fetches the outputs."""
        try:
            return Run(self, self.plan.functions[function], inputs, outputs, threads)
        except _FAILURES as failure:
            raise _refused(failure) from failure


class Run:
    """A function tied to memory; see `binding.Run`."""

    def __init__(
        self,
        model: KernelByKernel,
        function: Function,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
        threads: int,
    ) -> None:
        """See `KernelByKernel.bind`."""
        self._model = model
        self._threads = threads
        shapes = [array.shape for array in inputs]
        self._sizes = {n: shapes[one.input][one.axis] for n, one in function.sizes.items()}
        values: list[Any] = []
        for value in function.values:
            values.append(self._tensor(value, values))
        given = [i for i, one in enumerate(function.values) if one.kind == "input"]
        given.sort(key=lambda number: function.values[number].where)
        self._inputs = [(values[i], x) for i, x in zip(given, inputs, strict=True)]
        made = [values[number] for number in function.returned]
        self._outputs = [(y, one) for y, one in zip(outputs, made, strict=True)]
        self._calls = [
            (
                call.kernel,
                [
                    values[one.value] if isinstance(one, Operand) else evaluate(one, self._sizes)
                    for one in call.arguments
                ],
            )
            for call in function.calls
        ]
        with model.lock, model.device.guard():
            self._functions = [model.kernels[name] for name, _ in self._calls]

    def run(self) -> int:
        """Run it.

        Raises:
            Error: a kernel fails, or the device is lost.
        """
        device = self._model.device
        with self._model.lock, device.guard():
            try:
                self._begin()
                for kernel, (_, arguments) in zip(self._functions, self._calls, strict=True):
                    kernel(*arguments)
                for y, tensor in self._outputs:
                    if y.size:
                        y[...] = tensor.numpy()
            except _FAILURES as failure:
                raise _refused(failure) from failure
        return 0

    def time(self, runs: int) -> list[float]:
        """The seconds of so many runs: of their kernels, each timed on the device."""
        return self.time_kernels(runs, len(self._calls)).sum(axis=1).tolist()

    def time_kernels(self, runs: int, kernels: int) -> np.ndarray:
        """See `binding.Run.time_kernels`; a kernel is run so many times before the next one is."""
        seconds = np.empty((runs, kernels))
        device, library = self._model.device, self._model.kernels
        with self._model.lock, device.guard():
            self._begin()
            for number, (name, arguments) in enumerate(self._calls):
                evaluator = library.time_evaluator(name, device.cpu, number=1, repeat=runs)
                seconds[:, number] = evaluator(*arguments).results
        return seconds

    def _begin(self) -> None:
        if self._threads:
            self._model.device.use_threads(self._threads)
        for tensor, x in self._inputs:
            if x.size:
                tensor.copyfrom(x)

    def _tensor(self, value: Value, before: Sequence[Any]) -> Any:
        """The tensor of a value; of a view one with the memory of what it views."""
        if value.kind == "weight":
            return self._model.weights[value.name]
        shape = tuple(evaluate(size, self._sizes) for size in value.shape)
        if value.kind == "view":
            return before[value.where]._create_view(shape)
        array = np.zeros(shape, value.dtype)
        if value.kind == "constant":
            array = np.frombuffer(value.data, value.dtype).reshape(shape)
        return self._model.device.tensor(array)


def _refused(failure: Exception) -> Error:
    """What TVM says of a failure, without its own account of where."""
    if isinstance(failure, Error):
        return failure
    return Error((str(failure).strip() or repr(failure)).splitlines()[0])
