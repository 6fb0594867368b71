"""A function of a compiled model: call it, bind it to arrays, time it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gq_tvm.errors import Error
from gq_tvm.runtime import threads as thread_pool
from gq_tvm.runtime.calls import LocalCalls, Prepared, RemoteCalls, aligned
from gq_tvm.runtime.devices import Device
from gq_tvm.runtime.inputs import InputCheck
from gq_tvm.runtime.manifest import Function, Tensor
from gq_tvm.runtime.sizes import evaluate

Timer = Callable[[int], list[float]]

# What TVM raises where code and arguments do not fit, and NumPy where memory is short.
FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, BufferError, MemoryError)
_MOST_SHAPES = 32  # combinations of input shapes a function keeps memory for


class CompiledFunction:
    """One function of a compiled model, its weights bound.

    Attributes:
        name: Its name.
        inputs: What it takes.
        outputs: What it returns.
        bounds: Least and greatest value of each named size.
    """

    def __init__(
        self,
        name: str,
        function: Function,
        calls: LocalCalls | RemoteCalls,
        device: Device,
        threads: int,
    ) -> None:
        """See `gq_tvm.load`; ``threads`` is 0 where the code is for one thread alone."""
        self.name = name
        self.inputs = function.inputs
        self.outputs = function.outputs
        self.bounds = function.bounds
        self._calls = calls
        self._device = device
        self._single = function.single
        self._one_kernel = function.kernel is not None
        self._check = InputCheck(name, function)
        self._prepared: dict[tuple[Any, ...], Prepared] = {}
        self._shapes = 0
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
        arrays: Sequence[Any] = inputs
        signature = _signature(arrays)
        if None in signature:
            arrays = [_array(x, force=True) for x in inputs]
            signature = _signature(arrays)
        prepared = self._prepared.get(signature)
        if prepared is None:
            prepared = self._prepare(signature, arrays)
        count = self._threads if threads is None else self._asked(threads)
        try:
            outputs = self._calls(prepared, arrays, count)
        except FAILURES as failure:
            raise self._failed(failure) from failure
        if arrays is inputs or isinstance(inputs[0], np.ndarray):
            return outputs
        return _tensors(outputs)

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
        sizes = self._check(arrays)
        wanted = self._made(sizes)
        count = self._threads if threads is None else self._asked(threads)
        with self._sentences():
            if outputs is None:
                made = [aligned(shape, np.dtype(one.dtype)) for shape, one in wanted]
                in_numpy = not inputs or isinstance(inputs[0], np.ndarray)
                outputs = made if in_numpy else _tensors(tuple(made))
            else:
                made = self._check_outputs(outputs, [shape for shape, _ in wanted])
            self._meet_shapes()
            run = self._calls.bind(arrays, made, count)
        return Bound(self, run, outputs[0] if self._single else tuple(outputs))

    def timer(self, inputs: Sequence[np.ndarray]) -> Timer:
        """Return ``time(count)``: the seconds of each of ``count`` runs, without Python's share.

        Raises:
            Error: the inputs do not fit.
        """
        self._check(inputs)
        tensors = [self._device.tensor(x) for x in inputs]
        calls, name = self._calls, self.name

        def time(count: int) -> list[float]:
            with calls.lock, self._device.guard():
                if self._threads:
                    self._device.use_threads(self._threads)
                calls.machine.set_input(name, *tensors, *calls.weights)
                evaluator = calls.machine.time_evaluator(
                    "invoke_stateful", self._device.cpu, number=1, repeat=count
                )
                return list(evaluator(name).results)

        return time

    def __repr__(self) -> str:
        inputs = ", ".join(map(str, self.inputs))
        outputs = ", ".join(map(str, self.outputs))
        return f"{self.name}({inputs}) -> ({outputs})"

    def _prepare(self, signature: tuple[Any, ...], inputs: Sequence[Any]) -> Prepared:
        """Check inputs of new shapes, and make ready for calls with these shapes."""
        sizes = self._check(inputs)
        self._meet_shapes()
        outputs = self._made(sizes) if self._one_kernel else []
        with self._sentences():
            prepared = self._calls.prepare(inputs, [(shape, one.dtype) for shape, one in outputs])
        self._prepared[signature] = prepared
        return prepared

    def _made(self, sizes: Mapping[str, int]) -> list[tuple[tuple[int, ...], Tensor]]:
        """The shape of each output for inputs of certain sizes, and what else is known of it."""
        made = [(tuple(evaluate(s, sizes) for s in one.shape), one) for one in self.outputs]
        for shape, one in made:
            if min(shape, default=0) < 0:
                raise Error(
                    f"{one.name} of function {self.name} would have the size {min(shape)}; call it "
                    "with larger inputs"
                )
        return made

    def _meet_shapes(self) -> None:
        """Count new shapes; forget them all when they are many.

        TVM keeps the memory of every size it has met for the next call, without end.
        """
        self._shapes += 1
        if self._shapes > _MOST_SHAPES:
            self._shapes = 1
            self._prepared.clear()
            self._device.release_memory()

    def _asked(self, threads: int) -> int:
        parallel = self._threads > 0
        count = thread_pool.checked(threads, parallel, f"function {self.name}")
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

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as failure:
            raise self._failed(failure) from failure

    def _failed(self, failure: Exception) -> Error:
        return Error(
            f"function {self.name} failed: {first_line(failure)}; if its inputs are right, compile "
            "the model again"
        )


class Bound:
    """A function tied to arrays by `CompiledFunction.bind`; one thread may call it at a time.

    Attributes:
        outputs: What a call returns: the one output, or a tuple. The next call writes it anew.
    """

    def __init__(self, function: CompiledFunction, run: Callable[[], None], outputs: Any) -> None:
        self.outputs = outputs
        self._function = function
        self._run = run

    def __call__(self) -> Any:
        """Run the function on what its inputs hold now; return `outputs`.

        Raises:
            Error: the function fails.
        """
        try:
            self._run()
        except FAILURES as failure:
            raise self._function._failed(failure) from failure
        return self.outputs


def first_line(failure: Exception) -> str:
    """What TVM says of a failure, without its own account of where."""
    return (str(failure).strip() or repr(failure)).splitlines()[0]


def _signature(inputs: Sequence[Any]) -> tuple[Any, ...]:
    """What tells calls apart that must be prepared anew; None for what is no array."""
    return tuple([(x.dtype, x.shape) if isinstance(x, np.ndarray) else None for x in inputs])


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
