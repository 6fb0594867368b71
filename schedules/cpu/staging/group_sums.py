"""The sums of a staged row's groups, which zero points and the offset of centroids multiply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu import emit
from gq_tvm.schedules.family import Product

Expr = Any


def group_sums(
    product: Product, read: Callable[[Expr], Expr], dtype: str, store: Callable[[Expr, Expr], None]
) -> None:
    """Emit the sum of every group of ``product`` in a row.

    Args:
        product: It says what the groups are.
        read: ``read(k)`` is an activation as it was staged.
        dtype: Of the sums: ``"int32"`` or ``"float32"``.
        store: ``store(group, sum)`` takes them.
    """
    size = product.group or product.k

    def one(group: Expr, count: int) -> None:
        total = T.alloc_buffer((1,), dtype)
        T.buffer_store(total, T.Cast(dtype, 0), [0])
        with T.serial(0, count) as i:
            T.buffer_store(total, total[0] + T.cast(read(group * size + i), dtype), [0])
        store(group, T.bind(total[0]))

    whole, rest = divmod(product.k, size)
    emit.each(whole, lambda group: one(group, size))
    if rest:
        one(T.int32(whole), rest)
