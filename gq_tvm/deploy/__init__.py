"""Models on devices that have neither Python nor TVM."""

from __future__ import annotations

from gq_tvm.deploy.bundle import write

__all__ = ["write"]
