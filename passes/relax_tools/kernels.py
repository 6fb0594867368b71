"""The PrimFuncs a pass adds to a module: equal kernels are made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.ir import GlobalVar

from gq_tvm.passes.relax_tools.rewriter import CallRewriter


class Kernels:
    """Kernels by what they depend on."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], GlobalVar] = {}

    def get(
        self, rewriter: CallRewriter, key: tuple[Any, ...], make: Callable[[], tirx.PrimFunc]
    ) -> GlobalVar:
        """The function of a kernel, made when it is first asked for.

        Args:
            rewriter: That of the module the function is added to.
            key: Equal for equal kernels; its first field is a name.
            make: Builds the kernel.
        """
        if key not in self._made:
            kernel = make()
            name = kernel.attrs.get("global_symbol", key[0]) if kernel.attrs else key[0]
            kernel = kernel.without_attr("global_symbol")
            self._made[key] = rewriter.builder_.add_func(kernel, str(name))
        return self._made[key]
