"""``python -m gq_tvm.device``: run an emulated ARM board, or get what a real one needs."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gq_tvm.command import command
from gq_tvm.errors import Error
from gq_tvm.runtime import import_tvm

if TYPE_CHECKING:
    from gq_tvm.runtime.devices.board import Installation

_ON_A_BOARD = """\
On a real 64-bit ARM board (Linux, glibc 2.27 or newer; nothing else is needed there):
  1. here:          python -m gq_tvm.device --board FOLDER
  2. copy FOLDER to the board
  3. on the board:  FOLDER/start 9090
  4. here:          --rpc BOARD:9090
A board that has TVM 0.27 in Python can instead run
  python -m tvm.exec.rpc_server --host 0.0.0.0 --port 9090
Whoever reaches that port can run code on the board: keep it off open networks."""


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    import_tvm()  # before what imports it with PyTorch
    from gq_tvm.modelled import tools
    from gq_tvm.runtime.devices import emulator
    from gq_tvm.runtime.devices.emulator import CPUS, EmulatedDevice

    parser = argparse.ArgumentParser(
        prog="python -m gq_tvm.device",
        description="Run an emulated ARM board for commands that take --rpc, until Ctrl-C.",
        epilog=_ON_A_BOARD,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cpu", default="cortex-a72", choices=CPUS, help="default: %(default)s")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="default: any free port")
    parser.add_argument("--setup-only", action="store_true", help="set it up and leave")
    parser.add_argument(
        "--modelled",
        action="store_true",
        help="with --setup-only: set up what tuning without a board needs instead",
    )
    parser.add_argument("--board", metavar="FOLDER", help="write what a real board needs and leave")
    options = parser.parse_args(argv)
    if not 0 <= options.port < 65536:
        parser.error("--port must be between 0 and 65535")

    if options.modelled:
        if not options.setup_only:
            parser.error("--modelled needs --setup-only")
        print(f"The tools of modelled times are set up in {tools.setup().tools.folder}.")
        return 0
    installation = emulator.setup()
    if options.setup_only:
        print(f"The emulated ARM device is set up in {installation.folder}.")
        return 0
    if options.board:
        write_board(installation, Path(options.board))
        print(f"Copy {options.board} to the board and run {options.board}/start 9090 there.")
        return 0
    with EmulatedDevice(options.cpu, host=options.host, port=options.port) as device:
        print(f"An emulated {options.cpu} listens: --rpc {device.address} (Ctrl-C ends it)")
        print("Its results are those of a board, its timings are not.\n")
        print(_ON_A_BOARD, flush=True)
        device.wait()
    raise Error(f"the emulated {options.cpu} died: start it again")


def write_board(installation: Installation, folder: Path) -> None:
    """Write the RPC server, TVM's runtime libraries and a start script for an ARM board.

    Raises `Error` if `folder` exists or cannot be written.
    """
    from gq_tvm.runtime.devices.board import LIBRARIES
    from gq_tvm.runtime.threads import SPIN_VARIABLE, SPINS

    try:
        shutil.copytree(installation.board, folder)
        start = folder / "start"
        start.write_text(
            "#!/bin/sh\n"
            "# start [PORT [HOST]]: serve TVM's RPC until it is stopped\n"
            f'export {SPIN_VARIABLE}="${{{SPIN_VARIABLE}:-{SPINS}}}"\n'
            'cd "$(dirname "$0")" && exec ./rpc_server "${2:-0.0.0.0}" "${1:-9090}" '
            + " ".join(f"./{name}" for name in LIBRARIES)
            + "\n"
        )
        start.chmod(0o755)
    except FileExistsError:
        raise Error(f"{folder} exists: name a folder that does not") from None
    except OSError as problem:
        raise Error(f"cannot write {folder} ({problem.strerror}): choose another folder") from None


if __name__ == "__main__":
    sys.exit(main())
