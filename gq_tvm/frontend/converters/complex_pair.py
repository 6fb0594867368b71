"""A complex tensor as two real ones, and real operators by short names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import relax

if TYPE_CHECKING:
    from gq_tvm.frontend.importer import Importer


@dataclass(frozen=True)
class Complex:
    """A complex tensor: its parts have one shape."""

    real: relax.Expr
    imaginary: relax.Expr


class Emit:
    """Real operators, by short names."""

    def __init__(self, importer: Importer) -> None:
        self.emit = importer.block_builder.emit

    def __call__(self, operator: Callable[..., relax.Expr], *args: Any, **options: Any) -> Any:
        """A call of an operator of Relax's, as a variable."""
        return self.emit(operator(*args, **options))

    def add(self, x: Any, y: Any) -> Any:
        """``x + y``."""
        return self(relax.op.add, x, y)

    def subtract(self, x: Any, y: Any) -> Any:
        """``x - y``."""
        return self(relax.op.subtract, x, y)

    def multiply(self, x: Any, y: Any) -> Any:
        """``x * y``."""
        return self(relax.op.multiply, x, y)

    def scaled(self, x: Any, factor: float) -> Any:
        """``factor * x``."""
        return x if factor == 1 else self.multiply(x, relax.const(factor, x.ty.dtype))
