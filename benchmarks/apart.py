"""Measuring each of many things in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence


def run_apart(module: str, arguments: Sequence[str], seconds: float) -> str:
    """Run a module with arguments; what ended it without a result, or "".

    Args:
        module: As ``python -m`` takes it.
        arguments: Its own.
        seconds: It may take.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return f"took more than {seconds} s"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["ended"])[-1]
