"""What gq-tvm is measured against: a module for each system, imported only when it is wanted.

Each has ``layer(problem)`` and ``model(problem)``, which return candidates; building one may fail,
and the reason is then its row.
"""

from __future__ import annotations

from importlib import import_module

from benchmarks.candidate import Candidate
from benchmarks.problems import Layer, Model

#: The systems' names and their modules.
SYSTEMS = {
    "LiteRT": "litert",
    "ONNX Runtime": "onnx_runtime",
    "OpenVINO": "open_vino",
    "ggml": "ggml",
    "PyTorch": "pytorch",
}


def candidates(system: str, problem: Layer | Model) -> list[Candidate]:
    """Return the ways ``system`` has for ``problem``; raises what importing it raises."""
    module = import_module(f"benchmarks.peers.{SYSTEMS[system]}")
    return module.layer(problem) if isinstance(problem, Layer) else module.model(problem)
