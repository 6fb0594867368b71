"""A device that is a program: each call of a kernel is a process (``kernel_runner``)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gq_tvm.runtime.devices import kernel_runner


class Held:
    """An array on the device."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def numpy(self) -> np.ndarray:
        return self.array


class KernelProgram:
    """As much of a `gq_tvm.runtime.devices.device.Device` as kernels alone need."""

    def __init__(self, command: Sequence[str]) -> None:
        """Take the command line of the program, an emulator before it."""
        self.command = command

    def tensor(self, array: np.ndarray) -> Held:
        return Held(np.array(array, order="C"))

    def load_module(self, path: Path) -> Library:
        return Library(self.command, path)


class Library:
    """Kernels by their names."""

    def __init__(self, command: Sequence[str], path: Path) -> None:
        self._command = command
        self._folder = tempfile.TemporaryDirectory()  # the file itself may go
        self._path = Path(shutil.copy(path, self._folder.name))

    def __getitem__(self, name: str):
        def call(*arguments: Held) -> None:
            arrays = [one.array for one in arguments]
            found = kernel_runner.call(self._command, self._path, name, arrays)
            for one, array in zip(arguments, found, strict=True):
                one.array = array

        return call
