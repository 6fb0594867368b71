"""Artefacts on disk, loaded models, and the devices they run on.

The names below load on first use: what an artefact is can be read without loading TVM.
"""

from __future__ import annotations

import sys
from importlib import import_module
from threading import get_ident
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gq_tvm.runtime.artefact.folder import Artefact, save
    from gq_tvm.runtime.model import Model, load

__all__ = ["Artefact", "Model", "import_tvm", "load", "save"]

_LAZY = {
    "Artefact": "artefact.folder",
    "save": "artefact.folder",
    "Model": "model",
    "load": "model",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'gq_tvm.runtime' has no attribute {name!r}")
    return getattr(import_module(f"gq_tvm.runtime.{_LAZY[name]}"), name)


def import_tvm() -> None:
    """Import TVM without PyTorch, unless either is imported already.

    It imports PyTorch wherever that is installed, to take its tensors without NumPy: two thirds of
    the time that loading a model takes, for what models do by themselves.
    """
    if "tvm_ffi" in sys.modules or "torch" in sys.modules:
        return
    hidden = _NoTorch()
    sys.meta_path.insert(0, hidden)
    try:
        import_module("tvm.relax")
    finally:
        sys.meta_path.remove(hidden)


class _NoTorch:
    """Finds no PyTorch for the thread that made it."""

    def __init__(self) -> None:
        self._thread = get_ident()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "torch" and get_ident() == self._thread:
            raise ModuleNotFoundError("PyTorch is not imported along with TVM", name=name)
