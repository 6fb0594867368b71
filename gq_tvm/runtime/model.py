"""A loaded artefact: call it with NumPy arrays or PyTorch tensors."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from gq_tvm.errors import Error
from gq_tvm.runtime import weights
from gq_tvm.runtime.artefact import (
    CODE,
    MANIFEST,
    WEIGHTS,
    check_device,
    check_files,
    read_manifest,
)
from gq_tvm.runtime.calls import LocalCalls, RemoteCalls
from gq_tvm.runtime.devices import Device, LocalDevice
from gq_tvm.runtime.function import FAILURES, Bound, CompiledFunction, Timer, first_line
from gq_tvm.runtime.manifest import Layer, Manifest
from gq_tvm.runtime.threads import checked

_DEFAULT = ("main", "model")


def load(
    path: str | os.PathLike[str], device: Device | None = None, threads: int | None = None
) -> Model:
    """Load an artefact, after checking it whole.

    Args:
        path: The folder that ``gq_tvm.compile`` or ``Artefact.save`` wrote.
        device: Where to run it; None is this process, which maps the weights without copying.
        threads: Threads that calls run on, the calling one included; None is the number it was
            compiled for. More than the device has CPUs are taken for as many as these.

    Returns:
        The model. Threads may share it: its calls take turns.

    Raises:
        Error: the artefact is missing, damaged or for another CPU, or compiled for one thread where
            more are asked for; none of its code has run then.
    """
    manifest = read_manifest(path)
    parallel = manifest.threads > 1
    count = manifest.threads if threads is None else checked(threads, parallel, str(path))
    count = count if parallel else 0  # code for one thread is never told of threads
    device = device or LocalDevice()
    check_device(path, manifest, device.machine, device.features)
    check_files(path, manifest)
    arrays = weights.mapped(Path(path) / WEIGHTS)
    _check_weights(path, manifest, arrays)
    code = _code(Path(path) / CODE, device)
    tensors = {name: device.tensor(array) for name, array in arrays.items()}
    functions: dict[str, CompiledFunction] = {}
    lock = threading.Lock()
    try:
        machine = device.virtual_machine(code)
        library = code.imports[0] if isinstance(device, LocalDevice) else None
        for name, function in manifest.functions.items():
            own = [tensors[parameter] for parameter in function.parameters]
            kind = LocalCalls if isinstance(device, LocalDevice) else RemoteCalls
            calls = kind(machine, name, function, own, device, lock, library)
            functions[name] = CompiledFunction(name, function, calls, device, count)
    except (*FAILURES, IndexError) as failure:  # what TVM raises of code that lacks something
        raise Error(
            f"{path} has code that is not what its {MANIFEST} says ({first_line(failure)}); "
            "compile the model again"
        ) from failure
    return Model(manifest, functions, Kernels(code, tensors, device, count))


class Model(Mapping[str, "CompiledFunction"]):
    """A compiled model.

    ``net(x)`` calls the function of a plain model, ``net["encoder"](...)`` one of several. Threads
    may share a model: its calls take turns, and each thread gets its own results. What `bind`
    returns is for one thread at a time.

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

    def __repr__(self) -> str:
        functions = "; ".join(map(repr, self._functions.values()))
        return f"<gq_tvm model for {self.manifest.target['name']}: {functions}>"

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

    def __call__(self, *inputs: Any, threads: int | None = None) -> Any:
        """Call the only function, or the one called main; see `CompiledFunction.__call__`."""
        if self._default is None:
            raise self._unnamed()
        return self._default(*inputs, threads=threads)

    def bind(
        self, *inputs: Any, outputs: Sequence[Any] | None = None, threads: int | None = None
    ) -> Bound:
        """Bind the only function, or the one called main; see `CompiledFunction.bind`."""
        if self._default is None:
            raise self._unnamed()
        return self._default.bind(*inputs, outputs=outputs, threads=threads)

    def _unnamed(self) -> Error:
        return Error(f"say which function to call: net[name] with one of {', '.join(self)}")


class Kernels:
    """The kernels behind a model's functions, for timing one layer alone.

    Attributes:
        reachable: Whether they can be called: TVM's RPC hands out a module's functions, not those
            of the library inside it.
    """

    def __init__(
        self, code: Any, parameters: Mapping[str, Any], device: Device, threads: int
    ) -> None:
        self.reachable = isinstance(device, LocalDevice)
        self._threads = threads
        self._code = code
        self._parameters = parameters
        self._device = device

    def timer(self, symbol: str, arguments: Sequence[str | int | np.ndarray]) -> Timer:
        """Return ``time(count)``: the seconds of each of ``count`` calls of a kernel.

        Args:
            symbol: As in ``Layer.call``.
            arguments: Names of parameters, arrays, or numbers.
        """
        tensor = self._device.tensor
        tensors = [
            self._parameters[a] if isinstance(a, str) else a if isinstance(a, int) else tensor(a)
            for a in arguments
        ]
        library = self._code.imports[0]

        def time(count: int) -> list[float]:
            if self._threads:
                self._device.use_threads(self._threads)
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
