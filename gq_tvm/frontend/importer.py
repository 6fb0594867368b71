"""TVM's importer, held to what PyTorch says of every node.

Each operator gets its operands in the dtype it computes in, its result must have the dtype and the
sizes PyTorch gave it, and a failure names the operator and its place in the user's model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from tvm import relax
from tvm.ir import IRModule
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from gq_tvm.errors import Error
from gq_tvm.frontend.converters import complex_numbers
from gq_tvm.frontend.converters.promotion import operands_to_cast
from gq_tvm.frontend.places import name_of, place_of

_LONGEST = 300  # characters of TVM's account

Converter = Callable[[fx.Node, "Importer"], Any]


class Importer(ExportedProgramImporter):
    """Translates one program.

    Attributes:
        tvms: TVM's own converters, by the names it knows operators by.
        places: The node that each value comes from, by the names of the variables.
    """

    convert_map: dict[str, Callable[[fx.Node], Any]]

    def __init__(self, converters: Mapping[str, Converter]) -> None:
        super().__init__()
        self.places: dict[str, fx.Node] = {}
        self.tvms = self.convert_map
        ours = {name: self._bound(convert) for name, convert in converters.items()}
        self.convert_map = {
            name: self._checked(convert) for name, convert in {**self.tvms, **ours}.items()
        }

    def translate(self, program: ExportedProgram) -> IRModule:
        """The program as the function ``main``, its weights as constants.

        Raises:
            Error: an operator cannot be translated; the text names it and its place.
        """
        try:
            return self.from_exported_program(
                program,
                keep_params_as_input=False,
                unwrap_unit_return_tuple=True,
                no_bind_return_tuple=False,
                custom_convert_map=None,
            )
        except Error:
            raise
        except Exception as failure:
            raise Error(f"TVM cannot translate the program: {reason(failure)}") from failure

    def dtype_of(self, dtype: torch.dtype) -> str:
        """TVM's name of a dtype, or of the parts of a complex one."""
        return self._convert_data_type(dtype.to_real() if dtype.is_complex else dtype)

    def plain(self, node: fx.Node) -> Any:
        """Translate a node by TVM's own converter."""
        return self.tvms[name_of(node)](node)

    def _bound(self, convert: Converter) -> Callable[[fx.Node], Any]:
        return lambda node: convert(node, self)

    def _checked(self, convert: Callable[[fx.Node], Any]) -> Callable[[fx.Node], Any]:
        def checked(node: fx.Node) -> Any:
            try:
                if complex_numbers.is_complex(node):
                    return complex_numbers.convert(node, self, convert)
                result = self._promoted(convert, node)
            except Error:
                raise
            except Exception as failure:
                raise Error(
                    f"TVM cannot translate {place_of(node)}: {reason(failure)}"
                ) from failure
            result = self._as_promised(node, result)
            if isinstance(result, relax.Var):
                self.places[result.name] = node
            return result

        return checked

    def _promoted(self, convert: Callable[[fx.Node], Any], node: fx.Node) -> Any:
        """Convert a node, its operands cast for as long as that takes."""
        casts = operands_to_cast(node)
        given = {one: self.env[one] for one in casts}
        for one, dtype in casts.items():
            if isinstance(given[one], relax.Expr):
                self.env[one] = self._cast(given[one], dtype)
        try:
            return convert(node)
        finally:
            self.env.update(given)

    def _as_promised(self, node: fx.Node, result: Any) -> Any:
        """The result, in PyTorch's dtype; refuse it if its sizes are not PyTorch's."""
        promised = node.meta.get("val")
        if not isinstance(promised, torch.Tensor) or not isinstance(result, relax.Expr):
            return result
        if not isinstance(result.ty, relax.TensorType) or promised.dtype.is_complex:
            return result
        if result.ty.shape is not None:
            got, wanted = list(result.ty.shape), list(promised.shape)
            if len(got) != len(wanted) or any(
                _known(one) and _known(other) and int(one) != int(other)
                for one, other in zip(got, wanted, strict=True)
            ):
                raise Error(
                    f"{place_of(node)} has the shape {wanted} in PyTorch and {got} in TVM, an "
                    "error of TVM's or ours; replace it by other operators"
                )
        return self._cast(result, promised.dtype)

    def _cast(self, value: relax.Expr, dtype: torch.dtype) -> relax.Expr:
        name = self.dtype_of(dtype)
        if str(value.ty.dtype) == name:
            return value
        return self.block_builder.emit(relax.op.astype(value, name))


def reason(failure: BaseException) -> str:
    """What an exception says, in a line."""
    lines = str(failure).strip().splitlines()
    return lines[0][:_LONGEST] if lines else type(failure).__name__


def _known(size: Any) -> bool:
    return isinstance(size, int) or hasattr(size, "value")
