"""Wheels hold the core compiled for one machine: $GQ_MACHINE, or this one."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))

from gq_tvm.core import compiled
from gq_tvm.toolchain.zig import GLIBC

MACHINE = os.environ.get("GQ_MACHINE") or platform.machine()


class BuildWithCore(build_py):
    """The modules, and the core; a checkout that is installed as it is compiles it on first use."""

    def run(self) -> None:
        """Build."""
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib) / "gq_tvm" / "core" / compiled.BUILT.name / MACHINE
            shutil.copytree(compiled.provide(MACHINE), folder, dirs_exist_ok=True)


class WheelOfAMachine(bdist_wheel):
    """A wheel for every Python of one machine."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tags of its name."""
        return "py3", "none", f"manylinux_{GLIBC.replace('.', '_')}_{MACHINE}"


setup(cmdclass={"build_py": BuildWithCore, "bdist_wheel": WheelOfAMachine})
