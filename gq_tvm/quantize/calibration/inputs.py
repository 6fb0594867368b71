"""What a model is calibrated with: examples, or a function that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from gq_tvm.errors import Error

#: Runs a model once and gives what came out.
Run = Callable[[nn.Module], Any]
_MOST_RECORDED = 2**28  # bytes of the calls that a function makes
#: Is told how the work goes on, a line at a time.
Say = Callable[[str], object]


class Enough(BaseException):
    """Ends a run of a model whose rest is not needed; no model's own handling catches it."""


class Inputs:
    """Examples of a model's arguments, or one function that is given the model.

    Attributes:
        function: whether there is one run, by the user's function, which cannot be cut short.
    """

    def __init__(self, verb: str, runs: list[Run], function: bool) -> None:
        self._verb = verb
        self._runs = runs
        self.function = function

    @staticmethod
    def of(inputs: Any, verb: str) -> Inputs:
        """Read what a user gave.

        Args:
            inputs: an iterable, read once, of tuples of arguments; a tensor is one argument, a
                dictionary holds keyword arguments. Or a function.
            verb: who refuses.

        Raises:
            Error: it is neither, it is empty, or a tensor in it holds NaN.
        """
        if isinstance(inputs, nn.Module | Tensor | Mapping | str):
            raise Error(
                f"{verb}: inputs must be a list of examples or a function that is given the "
                f"model, got {type(inputs).__name__}; put a single example in a list."
            )
        if callable(inputs):
            return Inputs(verb, [_whole(inputs, verb)], True)
        if not isinstance(inputs, Iterable):
            raise Error(
                f"{verb}: inputs must be a list of examples, each a tuple of arguments, or a "
                f"function that is given the model, got {type(inputs).__name__}."
            )
        runs = [_example(one, number, verb) for number, one in enumerate(inputs)]
        if not runs:
            raise Error(f"{verb}: inputs hold no example; give some, or leave inputs out.")
        return Inputs(verb, runs, False)

    def runs(self) -> Iterator[Run]:
        """Each run, in order."""
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def calls(self, model: nn.Module) -> list[Run]:
        """The runs; of a function, the calls of a model in float that it makes, each a run."""
        if not self.function:
            return list(self._runs)
        calls: list[Run] = []
        size = 0

        def record(module: nn.Module, args: Any, named: Any) -> None:
            nonlocal size
            size += sum(t.nbytes for t in tree_leaves((args, named)) if isinstance(t, Tensor))
            if size > _MOST_RECORDED:
                return
            args, named = tree_map(
                lambda one: one.detach().clone() if isinstance(one, Tensor) else one, (args, named)
            )
            calls.append(lambda model: model(*args, **named))

        hook = model.register_forward_pre_hook(record, with_kwargs=True)
        with hook, evaluating(model):
            for run in self._runs:
                run(model)
        return calls

    def name(self, number: int) -> str:
        """What messages call a run."""
        return "inputs" if self.function else f"inputs[{number}]"


def _example(example: Any, number: int, verb: str) -> Run:
    where = f"{verb}: inputs[{number}]"
    args: tuple[Any, ...] = ()
    named: dict[str, Any] = {}
    if isinstance(example, Mapping):
        named = dict(example)
    elif isinstance(example, tuple | list):
        args = tuple(example)
    elif isinstance(example, Tensor):
        args = (example,)
    else:
        raise Error(
            f"{where} is {type(example).__name__}; an example is a tuple of arguments, a tensor, "
            "or a dictionary of keyword arguments."
        )
    for name, value in [*enumerate(args), *named.items()]:
        if isinstance(value, Tensor) and value.is_floating_point() and value.isnan().any():
            raise Error(f"{where}: argument {name} holds NaN; leave that example out.")

    def run(model: nn.Module) -> Any:
        with _said(f"{where} does not fit the model"):
            return model(*args, **named)

    return run


def _whole(function: Callable[[nn.Module], Any], verb: str) -> Run:
    def run(model: nn.Module) -> Any:
        with _said(f"{verb}: the function given as inputs fails"):
            return function(model)

    return run


@contextmanager
def _said(what: str) -> Iterator[None]:
    """An exception of the model's, or of a user's function, in one sentence."""
    try:
        yield
    except Error:
        raise
    except Exception as failure:
        text = " ".join(str(failure).split()).rstrip(".")
        raise Error(f"{what}: {type(failure).__name__}: {text}.") from failure


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode without gradients; each module's mode comes back."""
    modes = {module: module.training for module in model.modules()}
    with suppress(NotImplementedError):  # the module of an exported program has one mode
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            if module.training != mode:
                module.training = mode
