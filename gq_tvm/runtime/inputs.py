"""What a function takes: its inputs are checked, in words, before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from gq_tvm.errors import Error
from gq_tvm.runtime.manifest import Function, Tensor
from gq_tvm.runtime.sizes import evaluate


class InputCheck:
    """Compares the inputs of a call with what function ``name`` wants."""

    def __init__(self, name: str, function: Function) -> None:
        self._name = name
        self._inputs = function.inputs
        self._bounds = function.bounds

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
            self._check_computed(want, got, sizes)
        return sizes

    def _check_tensor(self, want: Tensor, got: np.ndarray, sizes: dict[str, int]) -> None:
        """Check dtype and sizes but computed ones; learn the named ones."""
        known = dict(sizes)  # by the inputs before, which a refusal takes for granted
        fits = len(want.shape) == got.ndim and str(got.dtype) == want.dtype
        if fits:
            for size, value in zip(want.shape, got.shape, strict=True):
                if isinstance(size, int):
                    fits = fits and size == value
                elif _is_name(size):
                    low, high = self._bounds.get(size, [None, None])
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

    def _refuse(self, want: Tensor, got: np.ndarray, sizes: Mapping[str, int]) -> NoReturn:
        shape = [sizes.get(s, s) if isinstance(s, str) else s for s in want.shape]
        sizes_text = ", ".join(map(str, got.shape))
        raise Error(
            f"input {want.name} of function {self._name} wants {self._wanted(want, shape)}, "
            f"got {got.dtype} [{sizes_text}]"
        )

    def _wanted(self, want: Tensor, shape: list[int | str]) -> str:
        named = [size for size in shape if isinstance(size, str) and size in self._bounds]
        ranges = [_range(size, *self._bounds[size]) for size in dict.fromkeys(named)]
        text = f"{want.dtype} [{', '.join(map(str, shape))}]"
        return f"{text} with {', '.join(ranges)}" if any(ranges) else text


def _is_name(size: str) -> bool:
    return re.fullmatch(r"[A-Za-z_]\w*", size) is not None


def _range(name: str, low: int | None, high: int | None) -> str:
    if low is None and high is None:
        return ""
    if high is None:
        return f"{name} at least {low}"
    return f"{name} from {low or 0} to {high}"
