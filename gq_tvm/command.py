"""What every command does alike: one sentence and an exit code instead of a traceback."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, TextIO

from gq_tvm import interrupts
from gq_tvm.errors import Error, missing_package, sentence


def command(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Make ``main(argv)`` a well-behaved command that returns an exit code.

    A refusal (`gq_tvm.Error`) is printed as ``error: <sentence>`` on standard error and gives 2, as
    do the usage errors of argparse, a package that is not installed, and output that cannot be
    written. An interrupt gives 130, SIGTERM and SIGHUP, which are taken for one, 143 and 129; a
    reader that went away (``| head``) gives 141 and no noise, as a shell reports a process killed
    by SIGPIPE. Every other exception is a defect of gq-tvm and keeps its traceback.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        with _ended_like_an_interrupt() as signals, _outputs() as (out, err):
            code = _answer(main, argv, out, err)
            lost = out.failure or err.failure
            if isinstance(lost, BrokenPipeError):
                return 141
            if lost is not None:
                _say(f"standard output cannot be written ({lost.strerror}); send it elsewhere")
                return code or 2
            return 128 + signals[-1] if code == 130 and signals else code

    return run


def positive(text: str) -> int:
    """Read a whole number of 1 or more: the ``type`` of an argument."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def printable(text: str, stream: TextIO | None = None) -> str:
    """Escape what the encoding of a stream, by default standard output, cannot write.

    Commands need not ask: whatever they print goes through this.
    """
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class _Output:
    """Standard output or error: what its encoding lacks is escaped, and a failure is remembered.

    So a failure of the output is told from that of any other file, even one argparse passes over.
    """

    def __init__(self, stream: TextIO) -> None:
        self.failure: OSError | None = None
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._remembered():
            return self._stream.write(printable(text, self._stream))

    def flush(self) -> None:
        with self._remembered():
            self._stream.flush()

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            self.failure = failure
            # What is still in the buffer goes nowhere when the interpreter flushes it once more.
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            raise


def _answer(
    main: Callable[[list[str] | None], int], argv: list[str] | None, out: _Output, err: _Output
) -> int:
    """The exit code of ``main``; failures of the outputs are left to the caller."""
    code = 2
    try:
        try:
            code = main(argv)
        except SystemExit as leave:  # argparse: 0 after --help, 2 after a usage error
            code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
            if isinstance(leave.code, str):
                print(leave.code, file=sys.stderr)
        except Error as refusal:
            _say(refusal)
        except ModuleNotFoundError as failure:
            sentence = missing_package(failure.name)
            if sentence is None:
                raise
            _say(sentence)
        except KeyboardInterrupt:
            code = 130
        out.flush()
    except OSError as failure:
        if failure is not out.failure and failure is not err.failure:
            raise
    return code


def _say(refusal: object) -> None:
    with suppress(OSError):  # whoever closed standard error wants no sentence
        print(f"error: {sentence(refusal)}", file=sys.stderr)


@contextmanager
def _outputs() -> Iterator[tuple[_Output, _Output]]:
    """Put an `_Output` in the place of both streams, also of those a shell has closed."""
    before = sys.stdout, sys.stderr
    # Where Python has none: a file that cannot be written, so that no text is lost unsaid.
    out = before[0] or open(os.open(os.devnull, os.O_RDONLY), "w")  # noqa: SIM115
    err = before[1] or open(os.devnull, "w")  # noqa: SIM115
    outputs = _Output(out), _Output(err)
    sys.stdout, sys.stderr = outputs
    try:
        yield outputs
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def _ended_like_an_interrupt() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP do what SIGINT does, where nobody else handles them.

    So what is half written is cleaned up, and a training writes its checkpoint. Yields the signals
    that came.
    """
    came: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        came.append(number)
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            handler(signal.SIGINT, frame)
        else:  # a shell starts what it puts in the background without one
            interrupts.interrupt()

    before = {}
    with suppress(ValueError):  # only the main thread may handle signals
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, interrupt)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_packages() -> None:
    """End a command whose modules cannot even be imported, in a sentence.

    Commands import this module before any that needs more than Python.
    """
    if find_spec("numpy") is None:
        _say(missing_package("numpy"))
        sys.exit(2)


_check_packages()
