"""Models on devices that have neither Python nor TVM, and the core that runs them everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gq_tvm.deploy.bundle import write

__all__ = ["write"]


def __getattr__(name: str) -> Any:
    if name != "write":
        raise AttributeError(f"module 'gq_tvm.deploy' has no attribute {name!r}")
    from gq_tvm.deploy.bundle import write  # needs TVM, which running models does not

    return write
