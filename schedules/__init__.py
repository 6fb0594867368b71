"""Kernels in TIR, grouped in families; the passes choose among the families listed here."""

from __future__ import annotations

from gq_tvm.errors import Error
from gq_tvm.schedules.cpu.engines.dense_f32 import DenseFloatEngine
from gq_tvm.schedules.cpu.engines.dense_int8 import DenseInt8Engine
from gq_tvm.schedules.cpu.engines.lookup import LookupEngine
from gq_tvm.schedules.cpu.engines.lookup_f32 import LookupFloatEngine
from gq_tvm.schedules.cpu.engines.narrow_table import NarrowTableEngine
from gq_tvm.schedules.cpu.engines.table import TableEngine
from gq_tvm.schedules.cpu.engines.table8 import RoundedTableEngine
from gq_tvm.schedules.cpu.engines.xnor import XnorEngine
from gq_tvm.schedules.cpu.family import VectorFamily
from gq_tvm.schedules.family import Choice, Family, Frames, Product
from gq_tvm.schedules.scalar.engine import ScalarEngine
from gq_tvm.schedules.scalar.family import Scalar
from gq_tvm.schedules.schedule import Schedule
from gq_tvm.targets import Target

# In order of preference: the first that supports a product is taken. The baseline comes after the
# family that supports everything, so it is only ever taken by name.
FAMILIES: list[Family] = [
    VectorFamily("table", ("int8",), (TableEngine, NarrowTableEngine)),
    VectorFamily("lookup", ("int8",), (LookupEngine,)),
    VectorFamily("lookup_f32", ("fp32",), (LookupFloatEngine,)),
    VectorFamily("xnor", ("int1", "int2"), (XnorEngine,)),
    Scalar("scalar", ("int8", "fp32", "int2", "int1"), (ScalarEngine,)),
    VectorFamily("table8", ("fp32",), (RoundedTableEngine,), approximate=True),
    VectorFamily("dense_int8", ("int8",), (DenseInt8Engine,), baseline=True),
    VectorFamily("dense_f32", ("fp32",), (DenseFloatEngine,), baseline=True),
]

__all__ = [
    "FAMILIES",
    "Choice",
    "Family",
    "Frames",
    "Product",
    "Schedule",
    "families_for",
    "family",
]


def families_for(target: Target, product: Product) -> list[Family]:
    """Return the families with kernels for `product` on `target`, best first."""
    return [family for family in FAMILIES if family.supports(target, product)]


def family(name: str) -> Family:
    """Return the family called `name`.

    Raises:
        Error: there is none; the text lists those there are.
    """
    for one in FAMILIES:
        if one.name == name:
            return one
    known = ", ".join(one.name for one in FAMILIES)
    raise Error(f"unknown kernel {name!r}; choose auto or one of {known}")
