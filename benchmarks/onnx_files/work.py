"""One file, in a process of its own: imported, compared, compiled and timed.

python -m benchmarks.onnx_files.work FILE RESULT.json '{"compile": true, "fixed": {}, "sizes": {}}'
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import gq_tvm
from benchmarks.harness import Harness, Plan
from gq_tvm.errors import Error
from gq_tvm.onnx_import import Options, comparison, read

_PLAN = Plan(rounds=5, chunks=2, chunk_us=20_000, warm_us=20_000, cold=1)
_KB = 1024


def measure(path: Path, options: Options, compiles: bool) -> dict[str, Any]:
    """What is to be told of a file; ``refused`` holds the sentence where something fails."""
    graph = onnx.load(str(path), load_external_data=False).graph
    told: dict[str, Any] = {
        "nodes": len(graph.node),
        "operators": len(Counter(one.op_type for one in graph.node)),
        "bytes": path.stat().st_size,
    }
    del graph
    try:
        program, told["import_seconds"], told["import_peak"] = _imported(path, options)
        lines: list[str] = []
        read(path, Options(options.fixed, options.sizes), lines.append)
        told["said"] = lines
        found = re.search(r"agrees with ONNX Runtime to (\S+),", " ".join(lines))
        told["error"] = float(found[1]) if found else None
        told |= _compiled(path, options, program) if compiles else {}
    except Error as refusal:
        told["refused"] = str(refusal).replace(str(path), path.name)
    return told


def _imported(path: Path, options: Options) -> tuple[Any, float, int]:
    """The program, seconds, and bytes at the peak above what the process held before."""
    with tempfile.TemporaryDirectory() as folder:
        read(_tiny(Path(folder) / "tiny.onnx"), Options(compare=False))  # all modules are loaded
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: proc(5)
    before, started = _memory("VmRSS"), time.perf_counter()
    program = read(path, Options(options.fixed, options.sizes, compare=False))
    return program, time.perf_counter() - started, _memory("VmHWM") - before


def _memory(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * _KB


def _tiny(path: Path) -> Path:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    ends = [helper.make_tensor_value_info(one, TensorProto.FLOAT, ["n", 4]) for one in "xy"]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Softmax", ["h"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "tiny", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(path))
    return path


def _compiled(path: Path, options: Options, program: Any) -> dict[str, Any]:
    started = time.perf_counter()
    artefact = gq_tvm.build(path, onnx=Options(options.fixed, options.sizes, compare=False))
    with tempfile.TemporaryDirectory() as folder:
        gq_tvm.save(artefact, Path(folder) / "it.gq")
        seconds = time.perf_counter() - started
        net = gq_tvm.load(Path(folder) / "it.gq")
        inputs = [one.numpy() for one in program.example_inputs[0]]
        got = net(*inputs)
    session, _, why = comparison.session(path)
    told: dict[str, Any] = {"compile_seconds": seconds}
    told["shapes"] = [list(one.shape) for one in inputs]
    if session is None:
        return told | {"said_by_runtime": why}
    names = [one.name for one in session.get_inputs() if one.name not in options.fixed]
    fixed = {
        one.name: np.asarray(options.fixed[one.name], np.int64)
        for one in session.get_inputs()
        if one.name in options.fixed
    }
    given = dict(zip(names, inputs, strict=True)) | fixed
    wanted = session.run(None, given)
    got = got if isinstance(got, (list, tuple)) else [got]
    told["compiled_error"] = max(map(comparison.error, map(np.asarray, got), wanted))
    runtime = _default_session(path)
    runs = {"ours": lambda: net(*inputs), "theirs": lambda: runtime.run(None, given)}
    times = Harness(lambda: None).measure(runs, _PLAN)
    told |= {one: times[one].hot_median for one in runs}
    return told


def _default_session(path: Path) -> Any:
    """What a user of ONNX Runtime has, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Measure what the arguments say."""
    path, result, more = sys.argv[1:]
    given = json.loads(more)
    told = measure(Path(path), Options(given["fixed"], given["sizes"]), given["compile"])
    Path(result).write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
