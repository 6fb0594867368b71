"""What a function takes: its inputs are checked, in words, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from gq_tvm.errors import Error
from gq_tvm.plan.plan import Function, Tensor
from gq_tvm.plan.size import Computed, Named, Size, evaluate


class InputCheck:
    """Compares the inputs of a call with what a function wants."""

    def __init__(self, function: Function) -> None:
        self._name = function.name
        self._inputs = function.inputs

    def __call__(self, inputs: Sequence[Any]) -> dict[str, int]:
        """Return the sizes known only at run time, by their names.

        Raises:
            Error: an input does not fit, and the text names it.
        """
        if len(inputs) != len(self._inputs):
            wanted = "; ".join(map(str, self._inputs)) or "none"
            raise Error(
                f"function {self._name} takes {len(self._inputs)} inputs, got {len(inputs)}; it "
                f"wants: {wanted}"
            )
        sizes: dict[str, int] = {}
        for want, got in zip(self._inputs, inputs, strict=True):
            if not isinstance(got, np.ndarray):
                raise Error(
                    f"input {want.name} of function {self._name} wants a NumPy array or PyTorch "
                    f"CPU tensor of {want.dtype}, got {getattr(got, 'dtype', type(got).__name__)}"
                )
            self._check_tensor(want, got, sizes)
        for want, got in zip(self._inputs, inputs, strict=True):
            for size, value in zip(want.shape, got.shape, strict=True):
                if isinstance(size, Computed) and evaluate(size, sizes) != value:
                    self._refuse(want, got, sizes, all_known=True)
        return sizes

    def _check_tensor(self, want: Tensor, got: np.ndarray, sizes: dict[str, int]) -> None:
        """Check dtype and sizes but computed ones; learn the named ones."""
        known = dict(sizes)  # by the inputs before, which a refusal takes for granted
        fits = len(want.shape) == got.ndim and str(got.dtype) == want.dtype
        if fits:
            for size, value in zip(want.shape, got.shape, strict=True):
                if isinstance(size, int):
                    fits = fits and size == value
                elif isinstance(size, Named):
                    fits = fits and size.least <= value
                    fits = fits and (size.most is None or value <= size.most)
                    fits = fits and sizes.setdefault(size.name, value) == value
        if not fits:
            self._refuse(want, got, known)

    def _refuse(
        self, want: Tensor, got: np.ndarray, sizes: Mapping[str, int], all_known: bool = False
    ) -> NoReturn:
        def shown(size: Size) -> Size:
            if isinstance(size, Named):
                return sizes.get(size.name, size)
            return evaluate(size, sizes) if all_known else size

        shape = [shown(size) for size in want.shape]
        named = dict.fromkeys(size for size in shape if isinstance(size, Named))
        ranges = ", ".join(filter(None, map(_range, named)))
        text = f"{want.dtype} [{', '.join(map(str, shape))}]{ranges and f' with {ranges}'}"
        raise Error(
            f"input {want.name} of function {self._name} wants {text}, "
            f"got {got.dtype} [{', '.join(map(str, got.shape))}]"
        )


def _range(size: Named) -> str:
    if size.most is None:
        return f"{size.name} at least {size.least}" if size.least else ""
    return f"{size.name} from {size.least} to {size.most}"
