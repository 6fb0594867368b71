"""What every command does alike: one sentence and an exit code instead of a traceback."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable

from gq_tvm.errors import Error


def command(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Make ``main(argv)`` a well-behaved command that returns an exit code.

    A refusal (`gq_tvm.Error`) is printed as ``error: <sentence>`` on standard error and gives 2, as
    do the usage errors of argparse; an interrupt gives 130; a reader that went away (``| head``)
    gives 141 and no noise, as a shell reports a process killed by SIGPIPE. Every other exception is
    a defect of gq-tvm and keeps its traceback.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            code = main(argv)
            sys.stdout.flush()  # a broken pipe shows here rather than at interpreter exit
            return code
        except Error as refusal:
            print(f"error: {refusal}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            # The interpreter flushes once more when it exits: let that go nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except SystemExit as leave:  # argparse: 0 after --help, 2 after a usage error
            if leave.code is None or isinstance(leave.code, int):
                return leave.code or 0
            print(leave.code, file=sys.stderr)
            return 1

    return run


def positive(text: str) -> int:
    """Read a whole number of 1 or more: the ``type`` of an argument."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)
