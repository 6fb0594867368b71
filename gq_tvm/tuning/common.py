"""The products whose schedules are shipped: the shapes of common speech recognisers' layers.

To measure them for a target T that this machine can run::

    python -m gq_tvm.tune --common-shapes --target T --database schedules/choosing/database/T.json

and to model them for one that no machine at hand can run::

    python -m gq_tvm.tune --common-shapes --modelled --trials 12 --target T \\
        --database schedules/choosing/database/T.json
"""

from __future__ import annotations

from gq_tvm.schedules import Product

#: N x K of linear layers: LSTMs, Conformer feed-forward and attention, joints, vocabularies.
SHAPES = (
    *((4096, 1024), (4096, 4096), (2560, 640), (1024, 256), (1024, 1024)),
    *((256, 1024), (256, 256), (512, 512), (640, 640)),
)
_BITS = (1, 2, 3, 4, 5, 6, 7, 8)
_MANY_ROWS = (4, 16, 64)
_MANY_ROWS_SHAPES = ((4096, 1024), (1024, 256))
_MANY_ROWS_BITS = (1, 2, 3, 4, 8)


def common_products(activation: str = "int8") -> list[Product]:
    """One row of every shape at every width, and more rows of some."""
    one = [Product(n, k, bits, activation, 1) for bits in _BITS for n, k in SHAPES]
    many = [
        Product(n, k, bits, activation, rows)
        for bits in _MANY_ROWS_BITS
        for n, k in _MANY_ROWS_SHAPES
        for rows in (*_MANY_ROWS, None)
    ]
    return [*one, *many]
