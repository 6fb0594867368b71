"""Artefacts on disk, loaded models, and the devices they run on.

The names below load on first use: what an artefact is can be read without loading TVM.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gq_tvm.runtime.artefact import Artefact, save
    from gq_tvm.runtime.model import Model, load

__all__ = ["Artefact", "Model", "load", "save"]

_LAZY = {"Artefact": "artefact", "save": "artefact", "Model": "model", "load": "model"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'gq_tvm.runtime' has no attribute {name!r}")
    return getattr(import_module(f"gq_tvm.runtime.{_LAZY[name]}"), name)
