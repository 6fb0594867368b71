"""A function of a compiled model: call it, bind it to arrays, time it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gq_tvm.core import binding
from gq_tvm.errors import Error
from gq_tvm.plan.plan import Function
from gq_tvm.plan.size import evaluate
from gq_tvm.runtime.inputs import InputCheck
from gq_tvm.runtime.memory import aligned

Timer = Callable[[int], list[float]]

_MOST_SHAPES = 32  # combinations of input shapes a function keeps memory for


class Run(Protocol):
    """A function tied to memory; see `binding.Run` and `kernel_by_kernel.Run`."""

    @property
    def run(self) -> Callable[[], int]:
        """Runs it; 0, or if it fails something else."""

    def time(self, runs: int) -> list[float]:
        """The seconds of each of so many runs."""

    def time_kernels(self, runs: int, kernels: int) -> np.ndarray:
        """The seconds f64 [runs, kernels] of each kernel in so many runs, in the plan's order."""


class Runner(Protocol):
    """What runs a model; see `binding.Core`, or `kernel_by_kernel.KernelByKernel`."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Held by whoever uses it, but for what it has bound."""

    def bind(
        self,
        function: str,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
        threads: int,
    ) -> Run:
        """Tie a function to contiguous arrays."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A function tied to memory of its own, for calls with inputs of certain shapes."""

    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    run: Callable[[], int]
    tied: Run


class CompiledFunction:
    """One function of a compiled model, its weights bound.

    Attributes:
        about: What the plan says of it.
        name: Its name.
        inputs: What it takes.
        outputs: What it returns.
    """

    def __init__(self, function: Function, runner: Runner, threads: int) -> None:
        """See `gq_tvm.load`; ``threads`` is 0 where the code is for one thread alone."""
        self.about = function
        self.name = function.name
        self.inputs = function.inputs
        self.outputs = function.outputs
        self._runner = runner
        self._lock = runner.lock
        self._single = function.single
        self._check = InputCheck(function)
        self._prepared: dict[tuple[Any, ...], _Prepared] = {}
        self._threads = threads

    def __call__(self, *inputs: Any, threads: int | None = None) -> Any:
        """Run the function.

        Args:
            inputs: NumPy arrays or PyTorch CPU tensors, as `self.inputs` says.
            threads: Threads to run on, this one included; None is what the model was loaded with.
                More than there are CPUs for this process are taken for as many as these.

        Returns:
            Arrays of the kind of the first input: one, or a tuple where there are several outputs.

        Raises:
            Error: the inputs do not fit, and the text names the input; the function fails; or the
                model was compiled for one thread and more are asked for.
        """
        count = self._threads if threads is None else self._asked(threads)
        arrays: Sequence[Any] = inputs
        signature = _signature(count, arrays)
        if None in signature:
            arrays = [_array(x, force=True) for x in inputs]
            signature = _signature(count, arrays)
        with self._lock:
            prepared = self._prepared.get(signature) or self._prepare(signature, arrays)
            for buffer, x in zip(prepared.inputs, arrays, strict=True):
                buffer[...] = x
            if prepared.run():
                raise self._failed()
            if self._single:
                result: Any = prepared.outputs[0].copy()
            else:
                result = tuple([one.copy() for one in prepared.outputs])
        if arrays is inputs or isinstance(inputs[0], np.ndarray):
            return result
        return _tensors(result)

    def bind(
        self, *inputs: Any, outputs: Sequence[Any] | None = None, threads: int | None = None
    ) -> Bound:
        """Tie the function to arrays, for calls without Python's share of the work.

        Args:
            inputs: NumPy arrays or PyTorch CPU tensors. Each call reads what they hold then. They
                are read where they lie if they are contiguous and their memory is aligned to 64
                bytes (PyTorch's is); otherwise, and where an output shares their memory, each call
                copies them into memory of its own first. Over RPC they are sent.
            outputs: Where each call writes its results, arrays or tensors as `self.outputs` says;
                they may be inputs too, as the state of a stream. None makes arrays of the kind of
                the first input.
            threads: As in a call.

        Returns:
            A `Bound`.

        Raises:
            Error: an input or output does not fit, and the text names it.
        """
        arrays = [_array(x) for x in inputs]
        shapes = self._shapes(self._check(arrays))
        count = self._threads if threads is None else self._asked(threads)
        if outputs is None:
            made = self._memory(shapes)
            in_numpy = not inputs or isinstance(inputs[0], np.ndarray)
            outputs = made if in_numpy else _tensors(tuple(made))
        else:
            made = self._check_outputs(outputs, shapes)
        with self._lock:
            run = self._tied(arrays, made, count)
        return Bound(self, run, outputs[0] if self._single else tuple(outputs))

    def timed(self, inputs: Sequence[np.ndarray]) -> Run:
        """Tie the function to copies of inputs, to be timed.

        Raises:
            Error: the inputs do not fit.
        """
        shapes = self._shapes(self._check(inputs))
        with self._lock:
            return self._prepared_for(inputs, shapes, self._threads).tied

    def __repr__(self) -> str:
        inputs = ", ".join(map(str, self.inputs))
        outputs = ", ".join(map(str, self.outputs))
        return f"{self.name}({inputs}) -> ({outputs})"

    def _prepare(self, signature: tuple[Any, ...], inputs: Sequence[Any]) -> _Prepared:
        """Check inputs of new shapes, and make ready for calls with these shapes.

        What is ready for others is forgotten where it is much: each has memory of its own.
        """
        shapes = self._shapes(self._check(inputs))
        if len(self._prepared) >= _MOST_SHAPES:
            self._prepared.clear()
        prepared = self._prepared_for(inputs, shapes, signature[0])
        self._prepared[signature] = prepared
        return prepared

    def _prepared_for(
        self, inputs: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]], threads: int
    ) -> _Prepared:
        buffers = [aligned(x.shape, x.dtype) for x in inputs]
        for buffer, x in zip(buffers, inputs, strict=True):
            buffer[...] = x
        outputs = self._memory(shapes)
        tied = self._runner.bind(self.name, buffers, outputs, threads)
        return _Prepared(buffers, outputs, tied.run, tied)

    def _tied(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], threads: int
    ) -> Callable[[], int]:
        """Return ``run()``, which copies what is not contiguous."""
        taken = [x if x.flags.c_contiguous else x.copy() for x in inputs]
        made = [y if y.flags.c_contiguous else y.copy() for y in outputs]
        run = self._runner.bind(self.name, taken, made, threads).run
        before = [(a, x) for a, x in zip(taken, inputs, strict=True) if a is not x]
        after = [(y, a) for a, y in zip(made, outputs, strict=True) if a is not y]
        if not before and not after:
            return run

        def copying() -> int:
            for to, source in before:
                to[...] = source
            failed = run()
            for to, source in after:
                to[...] = source
            return failed

        return copying

    def _shapes(self, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        """The shape of each output for inputs of certain sizes."""
        shapes = [tuple(evaluate(s, sizes) for s in one.shape) for one in self.outputs]
        for one, shape in zip(self.outputs, shapes, strict=True):
            if min(shape, default=0) < 0:
                raise Error(
                    f"{one.name} of function {self.name} would have the size {min(shape)}; call it "
                    "with larger inputs"
                )
        return shapes

    def _memory(self, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """Memory for outputs of these shapes."""
        try:
            return [
                aligned(shape, np.dtype(one.dtype))
                for shape, one in zip(shapes, self.outputs, strict=True)
            ]
        except (MemoryError, ValueError) as failure:
            raise Error(
                f"there is no memory for the outputs of function {self.name} ({failure}); call it "
                "with smaller inputs"
            ) from failure

    def _asked(self, threads: int) -> int:
        parallel = self._threads > 0
        count = checked_threads(threads, parallel, f"function {self.name}")
        return count if parallel else 0

    def _check_outputs(
        self, outputs: Sequence[Any], shapes: Sequence[tuple[int, ...]]
    ) -> list[np.ndarray]:
        """The arrays behind outputs that were given."""
        if len(outputs) != len(shapes):
            wanted = "; ".join(map(str, self.outputs))
            raise Error(
                f"function {self.name} has {len(shapes)} outputs, got memory for {len(outputs)}; "
                f"it returns: {wanted}"
            )
        arrays = []
        for want, shape, output in zip(self.outputs, shapes, outputs, strict=True):
            array = _array(output)
            if (
                not isinstance(array, np.ndarray)
                or (str(array.dtype), array.shape) != (want.dtype, shape)
                or not array.flags.writeable
            ):
                raise Error(
                    f"{want.name} of function {self.name} wants a writable array or tensor of "
                    f"{want.dtype} [{', '.join(map(str, shape))}], got {_described(output)}"
                )
            arrays.append(array)
        return arrays

    def _failed(self) -> Error:
        return Error(
            f"function {self.name} failed: {binding.reason()}; if its inputs are right, compile "
            "the model again"
        )


class Bound:
    """A function tied to arrays by `CompiledFunction.bind`; one thread may call it at a time.

    Attributes:
        outputs: What a call returns: the one output, or a tuple. The next call writes it anew.
        run: The bare call; 0, or if it fails something else.
    """

    def __init__(self, function: CompiledFunction, run: Callable[[], int], outputs: Any) -> None:
        """See `CompiledFunction.bind`."""
        self.outputs = outputs
        self.run = run
        self._function = function

    def __call__(self) -> Any:
        """Run the function on what its inputs hold now; return `outputs`.

        Raises:
            Error: the function fails.
        """
        if self.run():
            raise self._function._failed()
        return self.outputs


def checked_threads(count: object, parallel: bool, what: str) -> int:
    """Return a number of threads somebody asked for.

    Args:
        count: What was asked for.
        parallel: Whether the code is for several threads, and so for any number.
        what: Whose code it is, for the messages.

    Raises:
        Error: it is no number of at least 1, or the code is for one thread alone.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise Error(f"threads must be a whole number from 1 up, got {count!r}")
    if count > 1 and not parallel:
        raise Error(
            f"{what} was compiled for one thread and cannot run on {count}: compile it with "
            f"--threads {count}"
        )
    return count


def _signature(threads: int, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """What tells calls apart that must be prepared anew; None for what is no array."""
    kinds = [(x.dtype, x.shape) if isinstance(x, np.ndarray) else None for x in inputs]
    return (threads, *kinds)


def _tensors(arrays: Any) -> Any:
    """An array, or a tuple of them, as PyTorch tensors with their memory."""
    from_numpy = sys.modules["torch"].from_numpy
    return tuple(map(from_numpy, arrays)) if isinstance(arrays, tuple) else from_numpy(arrays)


def _array(value: Any, force: bool = False) -> Any:
    """The array itself, or one with the memory of a PyTorch tensor; a copy of it under ``force``.

    Whatever else it is, or a tensor whose dtype, layout or device NumPy lacks, comes back as it is.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return value
    try:
        return value.numpy(force=True) if force else value.detach().numpy()
    except (TypeError, RuntimeError):
        return value


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is None:
        return type(value).__name__
    read_only = isinstance(value, np.ndarray) and not value.flags.writeable
    return f"{'read-only ' * read_only}{value.dtype} [{', '.join(map(str, shape))}]"
