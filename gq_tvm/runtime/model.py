"""A loaded artefact: call it with NumPy arrays or PyTorch tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gq_tvm.core.binding import Core
from gq_tvm.errors import Error
from gq_tvm.plan.plan import Layer, Plan
from gq_tvm.runtime import import_tvm
from gq_tvm.runtime.artefact.folder import Manifest, check_device, read
from gq_tvm.runtime.function import Bound, CompiledFunction, Runner, checked_threads
from gq_tvm.targets import native

if TYPE_CHECKING:
    from gq_tvm.runtime.devices.device import Device

_DEFAULT = ("main", "model")


def load(
    path: str | os.PathLike[str], device: Device | None = None, threads: int | None = None
) -> Model:
    """Load an artefact, after checking it whole.

    Args:
        path: The folder that ``gq_tvm.compile`` or ``Artefact.save`` wrote.
        device: A device of TVM's to run it on; None is this process, which maps the weights
            without copying, and needs no TVM unless the kernels call functions of TVM's.
        threads: Threads that calls run on, the calling one included; None is the number it was
            compiled for. More than the device has CPUs are taken for as many as these.

    Returns:
        The model. Threads may share it: its calls take turns.

    Raises:
        Error: the artefact is missing, damaged or for another CPU, or compiled for one thread where
            more are asked for; none of its code has run then.
    """
    manifest, plan = read(path)
    parallel = manifest.threads > 1
    count = manifest.threads
    if threads is not None:
        count = checked_threads(threads, parallel, str(path))
    runner = _runner(path, plan, device, count)
    own = count if parallel else 0  # code for one thread is never told of threads
    functions = {
        name: CompiledFunction(function, runner, own) for name, function in plan.functions.items()
    }
    return Model(manifest, plan, functions, runner)


def _runner(
    path: str | os.PathLike[str], plan: Plan, device: Device | None, threads: int
) -> Runner:
    """The core; TVM where it has to be: on its devices, and for kernels that call it."""
    if device is None:
        check_device(path, plan, native.machine(), native.features())
    if device is None and not plan.runtime:
        return Core(path, threads)
    import_tvm()
    from gq_tvm.runtime.devices.device import LocalDevice
    from gq_tvm.runtime.kernel_by_kernel import KernelByKernel

    return KernelByKernel(plan, path, device or LocalDevice())


class Model(Mapping[str, "CompiledFunction"]):
    """A compiled model.

    ``net(x)`` calls the function of a plain model, ``net["encoder"](...)`` one of several. Threads
    may share a model: its calls take turns, and each thread gets its own results. What `bind`
    returns is for one thread at a time.

    Attributes:
        manifest: What the artefact says of itself.
        plan: What its functions do.
        runner: What runs them.
    """

    def __init__(
        self,
        manifest: Manifest,
        plan: Plan,
        functions: dict[str, CompiledFunction],
        runner: Runner,
    ) -> None:
        """See `load`."""
        self.manifest = manifest
        self.plan = plan
        self.runner = runner
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
        return self.plan.layers

    @property
    def metadata(self) -> Any:
        """The JSON that came with the programs, or None."""
        return self.manifest.metadata

    def __repr__(self) -> str:
        functions = "; ".join(map(repr, self._functions.values()))
        return f"<gq_tvm model for {self.manifest.target}: {functions}>"

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
