"""One model, in a process of its own: compressed, compiled, compared and timed.

python -m benchmarks.whole_models.work NAME RESULT.json
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gq_tvm
from benchmarks.harness import Harness, Plan
from benchmarks.whole_models.listed import MODELS, Entry
from gq_tvm import quantize

BITS = 4
_PLAN = Plan(rounds=9, chunks=2, chunk_us=50_000, warm_us=50_000, cold=1)


def measure(entry: Entry) -> dict[str, Any]:
    """What is to be told of a model: times in microseconds, sizes in bytes."""
    torch.manual_seed(0)
    with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as work:
        warnings.simplefilter("ignore")
        model, inputs = entry.make()
        model = model.eval()
        small = quantize.compress(model, BITS, progress=None)
        begun = time.perf_counter()
        artefact = gq_tvm.build(torch.export.export(small, inputs))
        told: dict[str, Any] = {"compile_seconds": time.perf_counter() - begun}
        gq_tvm.save(artefact, Path(work) / "it.gq")
        net = gq_tvm.load(Path(work) / "it.gq")
        arrays = [one.numpy() for one in inputs]
        got, wanted = _first(net(*arrays)), _first(small(*inputs)).numpy()
        told["error"] = float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))
        files = [one.stat().st_size for one in (Path(work) / "it.gq").rglob("*") if one.is_file()]
        told["bytes"] = sum(files)
        told["float_bytes"] = 4 * sum(one.numel() for one in model.parameters())
        session = _session(model, inputs, Path(work) / "it.onnx")
        there = {one.name for one in session.get_inputs()}  # those that the model reads
        given = {
            name: one for name, one in zip(_names(inputs), arrays, strict=True) if name in there
        }
        runs = {
            "ours": lambda: net(*arrays),
            "onnxruntime": lambda: session.run(None, given),
            "pytorch": lambda: model(*inputs),
        }
        times = Harness(lambda: None).measure(runs, _PLAN)
        return told | {one: times[one].hot_median for one in runs}


def _first(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple | list) else outputs


def _names(inputs: tuple[Tensor, ...]) -> list[str]:
    return [f"x{number}" for number in range(len(inputs))]


def _session(model: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> Any:
    """ONNX Runtime as its users have it, with the float model, on one thread."""
    import onnxruntime

    names = _names(inputs)
    torch.onnx.export(model, inputs, str(path), input_names=names, dynamo=False, opset_version=17)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Measure the model that the arguments name."""
    torch.set_num_threads(1)
    name, result = sys.argv[1:]
    (entry,) = (one for one in MODELS if one.name == name)
    Path(result).write_text(json.dumps(measure(entry), indent=1) + "\n")


if __name__ == "__main__":
    main()
