"""Where a command runs an artefact: ``--rpc``, ``--emulate``, ``--threads``, the same for each."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gq_tvm.command import positive
from gq_tvm.errors import Error
from gq_tvm.runtime import import_tvm
from gq_tvm.runtime.artefact.folder import check_runtime, read
from gq_tvm.targets import native

if TYPE_CHECKING:  # TVM takes seconds to load: not before a command has read its options
    from gq_tvm.runtime.devices.device import Device


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``, ``--rpc`` and ``--emulate``."""
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="run on so many threads (default: what it was compiled for)",
    )
    add_place_options(parser)


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--rpc`` and ``--emulate``, which exclude each other."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--rpc", metavar="HOST:PORT", help="run on a board (see gq_tvm.device)")
    where.add_argument(
        "--emulate", action="store_true", help="run ARM code on an emulated board, slowly"
    )


@contextmanager
def chosen_device(
    options: argparse.Namespace, artefact: str | os.PathLike[str]
) -> Iterator[Device | None]:
    """Yield the device the options of `add_device_options` name for an artefact.

    None is this process.

    Raises:
        Error: it cannot be reached or set up, or no emulator runs code for that target.
    """
    if options.emulate:
        with emulated(artefact) as device:
            yield device
    elif options.rpc:
        import_tvm()
        from gq_tvm.runtime.devices.device import connect

        with connect(options.rpc) as device:
            yield device
    else:
        yield None


@contextmanager
def emulated(artefact: str | os.PathLike[str]) -> Iterator[Device]:
    """Yield an emulated board with the CPU an artefact was compiled for.

    Raises:
        Error: nothing emulates that CPU, or the emulator is not set up.
    """
    import_tvm()
    from gq_tvm import targets

    manifest, plan = read(artefact)
    check_runtime(artefact, plan.machine)
    cpu = targets.get(manifest.target).emulator_cpu
    if cpu is None:
        raise Error(
            f"{artefact} is for {manifest.target}, which nothing here can emulate; use such a CPU"
        )
    from gq_tvm.runtime.devices.emulator import EmulatedDevice

    with EmulatedDevice(cpu) as board, board.connect() as device:
        yield device


def runs_here(artefact: str | os.PathLike[str]) -> bool:
    """Whether this process can run an artefact.

    Raises:
        Error: there is none.
    """
    _, plan = read(artefact)
    return plan.machine == native.machine() and set(plan.features) <= native.features()


def emulates(device: Device | None) -> bool:
    """Whether a device is a CPU in a program, whose times say nothing about a real one."""
    if device is None:
        return False
    from gq_tvm.runtime.devices.device import RpcDevice

    return isinstance(device, RpcDevice) and device.probed.emulated
