"""A loaded artefact: call it with NumPy arrays or PyTorch tensors."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from gq_tvm.errors import Error
from gq_tvm.runtime import weights
from gq_tvm.runtime.artefact import CODE, WEIGHTS, check_device, check_files, read_manifest
from gq_tvm.runtime.devices import ALIGNMENT, Device, LocalDevice
from gq_tvm.runtime.manifest import Function, Layer, Manifest, Tensor
from gq_tvm.runtime.sizes import evaluate

Timer = Callable[[int], list[float]]

_DEFAULT = ("main", "model")
_MOST_SHAPES = 32  # combinations of input shapes a function stays prepared for


def load(path: str | os.PathLike[str], device: Device | None = None) -> Model:
    """Load an artefact, after checking it whole.

    Args:
        path: The folder that ``gq_tvm.compile`` or ``Artefact.save`` wrote.
        device: Where to run it; None is this process, which maps the weights without copying.

    Raises:
        Error: the artefact is missing, damaged or for another CPU; none of its code has run then.
    """
    manifest = read_manifest(path)
    device = device or LocalDevice()
    check_device(path, manifest, device.machine, device.features)
    check_files(path, manifest)
    arrays = weights.mapped(Path(path) / WEIGHTS)
    _check_weights(path, manifest, arrays)
    code = _code(Path(path) / CODE, device)
    machine = device.virtual_machine(code)
    tensors = {name: device.tensor(array) for name, array in arrays.items()}
    functions: dict[str, CompiledFunction] = {}
    lock = threading.Lock()
    for name, function in manifest.functions.items():
        bound = [tensors[parameter] for parameter in function.parameters]
        run = _Local if isinstance(device, LocalDevice) else _Remote
        call = run(machine, name, function, bound, device, lock)
        functions[name] = CompiledFunction(name, function, call, device)
    return Model(manifest, functions, Kernels(code, tensors, device))


class Model(Mapping[str, "CompiledFunction"]):
    """A compiled model.

    ``net(x)`` calls the function of a plain model, ``net["encoder"](...)`` one of several.

    Attributes:
        manifest: What the artefact says of itself.
        kernels: Its kernels, to be timed alone.
    """

    def __init__(
        self, manifest: Manifest, functions: dict[str, CompiledFunction], kernels: Kernels
    ) -> None:
        self.manifest = manifest
        self.kernels = kernels
        self._functions = functions
        plain = [name for name in _DEFAULT if name in functions] or list(functions)[:1]
        self._default = functions[plain[0]] if plain[0] in _DEFAULT or len(functions) == 1 else None

    @property
    def functions(self) -> list[str]:
        """The names of its functions."""
        return list(self._functions)

    @property
    def layers(self) -> list[Layer]:
        """The layers whose weights are in codebooks."""
        return self.manifest.layers

    @property
    def metadata(self) -> Any:
        """The JSON that came with the programs, or None."""
        return self.manifest.metadata

    def __getitem__(self, name: str) -> CompiledFunction:
        if name not in self._functions:
            raise Error(f"there is no function {name!r}; there are: {', '.join(self._functions)}")
        return self._functions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    # A model is itself alone, and no dictionary, to whoever compares or keeps it.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def __call__(self, *inputs: Any) -> Any:
        """Call the only function, or the one called main; see `CompiledFunction.__call__`."""
        if self._default is None:
            raise Error(f"say which function to call: net[name] with one of {', '.join(self)}")
        return self._default(*inputs)


class CompiledFunction:
    """One function of a compiled model, its weights bound.

    Attributes:
        name: Its name.
        inputs: What it takes.
        outputs: What it returns.
    """

    def __init__(self, name: str, function: Function, run: _Local | _Remote, device: Device):
        self.name = name
        self.inputs = function.inputs
        self.outputs = function.outputs
        self.bounds = function.bounds
        self._run = run
        self._device = device
        self._single = function.single
        self._prepared: dict[tuple[Any, ...], Any] = {}

    def __call__(self, *inputs: Any) -> Any:
        """Run the function.

        Args:
            inputs: NumPy arrays or PyTorch CPU tensors, as `self.inputs` says.

        Returns:
            Arrays of the kind of the first input: one, or a tuple where there are several outputs.

        Raises:
            Error: the inputs do not fit, and the text names the input; or the function fails.
        """
        torch = _torch_of(inputs)
        as_torch = torch is not None and isinstance(inputs[0], torch.Tensor)
        if torch is not None:
            inputs = tuple(_array(x) if isinstance(x, torch.Tensor) else x for x in inputs)
        signature = tuple((x.dtype, x.shape) if isinstance(x, np.ndarray) else None for x in inputs)
        prepared = self._prepared.get(signature)
        if prepared is None:
            prepared = self._prepare(signature, inputs)
        try:
            outputs = self._run(prepared, inputs)
        except (RuntimeError, TypeError, ValueError) as failure:  # what TVM raises
            reason = (str(failure).strip() or repr(failure)).splitlines()[0]
            raise Error(
                f"function {self.name} failed: {reason}; if its inputs are right, compile the "
                "model again"
            ) from failure
        if as_torch:
            outputs = tuple(torch.from_numpy(y) for y in outputs)
        return outputs[0] if self._single else outputs

    def timer(self, inputs: Sequence[np.ndarray]) -> Timer:
        """Return ``time(count)``: the seconds of each of ``count`` runs, without Python's share.

        Raises:
            Error: the inputs do not fit.
        """
        self._check(tuple(inputs))
        tensors = [self._device.tensor(x) for x in inputs]
        machine, bound, name = self._run.machine, self._run.bound, self.name

        def time(count: int) -> list[float]:
            with self._run.lock, self._device.guard():
                machine.set_input(name, *tensors, *bound)
                evaluator = machine.time_evaluator(
                    "invoke_stateful", self._device.cpu, number=1, repeat=count
                )
                return list(evaluator(name).results)

        return time

    def __repr__(self) -> str:
        inputs = ", ".join(map(str, self.inputs))
        outputs = ", ".join(map(str, self.outputs))
        return f"{self.name}({inputs}) -> ({outputs})"

    def _prepare(self, signature: tuple[Any, ...], inputs: tuple[Any, ...]) -> Any:
        """Check inputs of new shapes, and make ready for calls with these shapes."""
        self._check(inputs)
        if len(self._prepared) >= _MOST_SHAPES:
            self._prepared.clear()
        self._prepared[signature] = prepared = self._run.prepare(inputs)
        return prepared

    def _check(self, inputs: tuple[Any, ...]) -> None:
        """Refuse inputs that do not fit."""
        if len(inputs) != len(self.inputs):
            wanted = "; ".join(map(str, self.inputs)) or "none"
            raise Error(
                f"function {self.name} takes {len(self.inputs)} inputs, got {len(inputs)}; it "
                f"wants: {wanted}"
            )
        sizes: dict[str, int] = {}
        for want, got in zip(self.inputs, inputs, strict=True):
            if not isinstance(got, np.ndarray):
                raise Error(
                    f"input {want.name} of function {self.name} wants a NumPy array or PyTorch "
                    f"tensor of {want.dtype}, got {getattr(got, 'dtype', type(got).__name__)}"
                )
            self._check_tensor(want, got, sizes)
        for want, got in zip(self.inputs, inputs, strict=True):
            self._check_computed(want, got, sizes)

    def _check_tensor(self, want: Tensor, got: np.ndarray, sizes: dict[str, int]) -> None:
        """Check dtype and sizes but computed ones; learn the named ones."""
        known = dict(sizes)  # by the inputs before, which a refusal takes for granted
        fits = len(want.shape) == got.ndim and str(got.dtype) == want.dtype
        if fits:
            for size, value in zip(want.shape, got.shape, strict=True):
                if isinstance(size, int):
                    fits = fits and size == value
                elif _is_name(size):
                    low, high = self.bounds.get(size, [None, None])
                    fits = fits and (low is None or low <= value)
                    fits = fits and (high is None or value <= high)
                    fits = fits and sizes.setdefault(size, value) == value
        if not fits:
            self._refuse(want, got, known)

    def _check_computed(self, want: Tensor, got: np.ndarray, sizes: dict[str, int]) -> None:
        """Check the sizes that are expressions of named ones."""
        for size, value in zip(want.shape, got.shape, strict=True):
            if isinstance(size, str) and not _is_name(size) and evaluate(size, sizes) != value:
                self._refuse(want, got, {**sizes, size: evaluate(size, sizes)})

    def _refuse(self, want: Tensor, got: np.ndarray, sizes: Mapping[str, int]) -> None:
        shape = [sizes.get(s, s) if isinstance(s, str) else s for s in want.shape]
        sizes_text = ", ".join(map(str, got.shape))
        raise Error(
            f"input {want.name} of function {self.name} wants {self._wanted(want, shape)}, "
            f"got {got.dtype} [{sizes_text}]"
        )

    def _wanted(self, want: Tensor, shape: list[int | str]) -> str:
        named = [size for size in shape if isinstance(size, str) and size in self.bounds]
        ranges = [_range(size, *self.bounds[size]) for size in dict.fromkeys(named)]
        text = f"{want.dtype} [{', '.join(map(str, shape))}]"
        return f"{text} with {', '.join(ranges)}" if any(ranges) else text


class _Local:
    """Calls of a function in this process.

    Inputs are copied to aligned memory that TVM knows already: cheaper than telling it of new
    memory, and any layout will do. One call at a time, as TVM's virtual machine demands.
    """

    def __init__(
        self,
        machine: Any,
        name: str,
        function: Function,
        bound: list[Any],
        device: Device,
        lock: AbstractContextManager[Any],
    ) -> None:
        self.machine = machine
        self.bound = bound
        self._call = machine[name]
        self._single = function.single
        self._device = device
        self.lock = lock

    def prepare(self, inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[Any]]:
        """Memory for inputs of these shapes, and the function's arguments."""
        buffers = [_aligned(x.shape, x.dtype) for x in inputs]
        return buffers, [*map(self._device.tensor, buffers), *self.bound]

    def __call__(
        self, prepared: tuple[list[np.ndarray], list[Any]], inputs: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        buffers, arguments = prepared
        with self.lock:
            for buffer, x in zip(buffers, inputs, strict=True):
                buffer[...] = x
            result = self._call(*arguments)
            # Copied, as TVM may give back its input or a weight.
            outputs = [result] if self._single else result
            return tuple(np.from_dlpack(one).copy() for one in outputs)


class _Remote:
    """Calls of a function over RPC, which passes no tuples: inputs are set, outputs fetched."""

    def __init__(
        self,
        machine: Any,
        name: str,
        function: Function,
        bound: list[Any],
        device: Device,
        lock: AbstractContextManager[Any],
    ) -> None:
        self.machine = machine
        self.bound = bound
        self._name = name
        self._device = device
        self.lock = lock

    def prepare(self, inputs: Sequence[np.ndarray]) -> tuple[()]:
        """Nothing: every call sends its inputs."""
        return ()

    def __call__(self, _: tuple[()], inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        with self.lock:
            self.machine.set_input(self._name, *map(self._device.tensor, inputs), *self.bound)
            self.machine.invoke_stateful(self._name)
            outputs = self.machine.get_outputs(self._name)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            return tuple(one.numpy() for one in outputs)


class Kernels:
    """The kernels behind a model's functions, for timing one layer alone.

    Attributes:
        reachable: Whether they can be called: TVM's RPC hands out a module's functions, not those
            of the library inside it.
    """

    def __init__(self, code: Any, parameters: Mapping[str, Any], device: Device) -> None:
        self.reachable = isinstance(device, LocalDevice)
        self._code = code
        self._parameters = parameters
        self._device = device

    def timer(self, symbol: str, arguments: Sequence[str | np.ndarray]) -> Timer:
        """Return ``time(count)``: the seconds of each of ``count`` calls of a kernel.

        Args:
            symbol: As in ``Layer.call``.
            arguments: Names of parameters, or arrays.
        """
        tensors = [
            self._parameters[a] if isinstance(a, str) else self._device.tensor(a) for a in arguments
        ]
        library = self._code.imports[0]

        def time(count: int) -> list[float]:
            evaluator = library.time_evaluator(symbol, self._device.cpu, number=1, repeat=count)
            return list(evaluator(*tensors).results)

        return time


def _check_weights(
    path: str | os.PathLike[str], manifest: Manifest, arrays: Mapping[str, np.ndarray]
) -> None:
    for name, size in manifest.parameter_bytes.items():
        if name not in arrays:
            raise Error(f"{path} lacks the weight {name}; compile the model again")
        if arrays[name].nbytes != size:
            raise Error(
                f"{path} has {arrays[name].nbytes} bytes of the weight {name}, its manifest says "
                f"{size}; compile the model again"
            )


def _code(library: Path, device: Device) -> Any:
    """Load a library, on this machine under a name of its own.

    The dynamic linker takes a path it has loaded before for the same library, even where an
    artefact was compiled anew in the same place since; and ``tvm.runtime.load_module`` would
    resolve a link back to that path.
    """
    if not isinstance(device, LocalDevice):
        return device.load_module(library)
    with tempfile.TemporaryDirectory() as folder:
        alias = Path(folder) / library.name
        alias.symlink_to(library.absolute())
        try:
            return tvm_ffi.load_module(str(alias))
        except Exception as failure:
            raise Error(f"cannot load {library}: {failure}") from failure


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array whose memory is aligned as TVM's code wants it."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _array(tensor: Any) -> Any:
    """A PyTorch tensor as an array, or as it is where NumPy has no such dtype or layout."""
    try:
        return tensor.detach().cpu().numpy()
    except (TypeError, RuntimeError):
        return tensor


def _is_name(size: str) -> bool:
    return re.fullmatch(r"[A-Za-z_]\w*", size) is not None


def _torch_of(inputs: tuple[Any, ...]) -> Any:
    """The module torch if any input is one of its tensors, else None; never imports it."""
    torch = sys.modules.get("torch")
    if torch is not None and any(isinstance(x, torch.Tensor) for x in inputs):
        return torch
    return None


def _range(name: str, low: int | None, high: int | None) -> str:
    if low is None and high is None:
        return ""
    if high is None:
        return f"{name} at least {low}"
    return f"{name} from {low or 0} to {high}"
