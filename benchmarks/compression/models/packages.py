"""Where the packages lie whose weights are measured; their own code need not be imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from gq_tvm.errors import Error


def folder(package: str) -> Path:
    """The folder of an installed package.

    Raises:
        Error: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Error(f"the package {package} is not installed; see benchmarks/requirements.txt.")
    return Path(next(iter(spec.submodule_search_locations)))
