"""gq-tvm: a compiler for neural networks whose weights live in learned codebooks.

The names below load on first use, so that ``gq_tvm.quantize`` costs no TVM import and
``gq_tvm.load`` no PyTorch import.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gq_tvm.errors import Error, missing_package

if TYPE_CHECKING:
    from gq_tvm import quantize
    from gq_tvm.build import build
    from gq_tvm.onnx_export import export_onnx
    from gq_tvm.runtime import load, save

__version__ = "0.1.0"
__all__ = ["Error", "__version__", "build", "export_onnx", "load", "quantize", "save"]

_LAZY = {
    "build": "gq_tvm.build",
    "export_onnx": "gq_tvm.onnx_export",
    "load": "gq_tvm.runtime",
    "quantize": "gq_tvm.quantize",
    "save": "gq_tvm.runtime",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'gq_tvm' has no attribute {name!r}")
    try:
        module = import_module(_LAZY[name])
        value = module if name == "quantize" else getattr(module, name)
    except ModuleNotFoundError as failure:
        raise Error(missing_package(failure.name) or failure) from failure
    globals()[name] = value  # otherwise `gq_tvm.build` the submodule shadows the function
    return value


def _live_without_a_home() -> None:
    """Name a folder for caches where there is no home, as of a container's user without a name.

    TVM asks for one when it is imported, and so do the processes we start.
    """
    if os.environ.get("XDG_CACHE_HOME"):
        return
    try:
        Path.home()
    except RuntimeError:
        from gq_tvm import cache

        os.environ["XDG_CACHE_HOME"] = str(cache.without_home())


_live_without_a_home()
