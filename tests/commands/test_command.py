from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from gq_tvm import Error
from gq_tvm.command import command


def test_exit_code_passes_through():
    assert command(lambda argv: 3)([]) == 3


def test_error_is_one_sentence_and_code_2(capsys: pytest.CaptureFixture[str]):
    @command
    def main(argv: list[str] | None = None) -> int:
        raise Error("there is no file m.gq: compile a model first")

    assert main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: there is no file m.gq: compile a model first\n"


def test_interrupt_is_130():
    @command
    def main(argv: list[str] | None = None) -> int:
        raise KeyboardInterrupt

    assert main() == 130


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), (["--nonsense"], 2)])
def test_argparse_codes(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]):
    @command
    def main(argv: list[str] | None = None) -> int:
        argparse.ArgumentParser().parse_args(argv)
        return 0

    assert main(argv) == code


def test_defects_keep_their_traceback():
    @command
    def main(argv: list[str] | None = None) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


def test_reader_that_went_away_is_quiet():
    program = (
        "import sys\n"
        "from gq_tvm.command import command\n"
        "@command\n"
        "def main(argv=None):\n"
        "    for line in range(1_000_000): print(line)\n"
        "    return 0\n"
        "sys.exit(main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141
