"""How far a model's outputs are from those it gave before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gq_tvm.errors import Error
from gq_tvm.quantize.calibration.inputs import Inputs
from gq_tvm.quantize.losses import floats_of


class FloatOutputs:
    """What a model gives on some inputs while its weights are in float.

    Args:
        model: in eval mode.
        inputs: what to run it with; each call of the model counts.
        verb: who refuses.

    Raises:
        Error: it does not run, is not called, gives no float tensor, or a NaN or an infinity.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, verb: str) -> None:
        self._model, self._inputs, self._verb = model, inputs, verb
        self._outputs: list[dict[str, Tensor]] = []

        def keep(number: int, output: dict[str, Tensor]) -> None:
            self._outputs.append({name: one.clone() for name, one in output.items()})

        self._run(keep)
        if not any(self._outputs):
            what = "gives no float tensor" if self._outputs else "is not called by the function"
            raise Error(f"{verb}: the model {what} given as inputs; give others.")
        self._power = {name: 0.0 for output in self._outputs for name in output}
        for output in self._outputs:
            for name, one in output.items():
                if not one.isfinite().all():
                    raise Error(
                        f"{verb}: the float model gives NaN or infinity in its output{name}; "
                        "give inputs on which it works."
                    )
                self._power[name] += float(one.double().square().sum())

    def lost(self) -> float:
        """The share of noise in the outputs now: noise power over signal power.

        A mean over the outputs that a call gives; infinite where one is NaN.
        """
        noise = dict.fromkeys(self._power, 0.0)
        calls = 0

        def compare(number: int, output: dict[str, Tensor]) -> None:
            nonlocal calls
            calls += 1
            wanted = self._outputs[number] if number < len(self._outputs) else {}
            shapes = {name: one.shape for name, one in output.items()}
            if shapes != {name: one.shape for name, one in wanted.items()}:
                self._refuse()
            for name, one in output.items():
                noise[name] += float((one.double() - wanted[name].double()).square().sum())

        self._run(compare)
        if calls != len(self._outputs):
            self._refuse()
        shares = [noise[name] / power for name, power in self._power.items() if power > 0]
        lost = sum(shares) / len(shares) if shares else 0.0
        return lost if lost == lost else float("inf")

    def _refuse(self) -> None:
        raise Error(
            f"{self._verb}: the function given as inputs calls the model otherwise once a weight "
            "is quantised; give one whose calls do not depend on what the model gives."
        )

    def _run(self, each: Any) -> None:
        """Run the model with all inputs; ``each`` is given the outputs of every call by place."""
        count = 0

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal count
            each(count, dict(floats_of(output)))
            count += 1

        with self._model.register_forward_hook(hook), torch.no_grad():
            for run in self._inputs.runs():
                run(self._model)
