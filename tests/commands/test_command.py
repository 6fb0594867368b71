from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gq_tvm
from gq_tvm import Error
from gq_tvm.__main__ import VERBS, main
from gq_tvm.command import command
from gq_tvm.errors import missing_package


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


@pytest.mark.parametrize("defect", [ZeroDivisionError, OSError, BrokenPipeError])
def test_defects_keep_their_traceback(defect: type[Exception]):
    """Also an OSError of another file than the outputs, and a connection that broke."""

    @command
    def main(argv: list[str] | None = None) -> int:
        raise defect

    streams = sys.stdout, sys.stderr
    with pytest.raises(defect):
        main()
    assert (sys.stdout, sys.stderr) == streams


def test_names_that_nothing_shows_are_escaped_in_a_refusal(capsys: pytest.CaptureFixture[str]):
    @command
    def main(argv: list[str] | None = None) -> int:
        raise Error("no tensor a\x1b[2J\n\u2028é")

    assert main() == 2
    assert capsys.readouterr().err == "error: no tensor a\\x1b[2J\\n\\u2028é\n"


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("torch.nn", "this needs PyTorch, which is not installed: run .* install 'gq-tvm.train.'"),
        ("tvm", "this needs Apache TVM, which is not installed: run .* install 'gq-tvm.compile.'"),
        ("soundfile", "has no package soundfile: activate the environment"),
    ],
)
def test_a_missing_package_is_a_sentence(module, says, capsys: pytest.CaptureFixture[str]):
    @command
    def main(argv: list[str] | None = None) -> int:
        raise ModuleNotFoundError(name=module)

    assert main() == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert missing_package("gq_tvm.nothing") is missing_package("json.nothing") is None
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(missing_package(module))


PROGRAM = """
import sys, time
from gq_tvm.__main__ import VERBS, main
from gq_tvm.command import command
@command
def main(argv=None):
    exec(sys.argv[1])
    return 0
sys.exit(main())
"""


def started(body: str, *options: str, **more) -> subprocess.Popen:
    program = [sys.executable, *options, "-c", PROGRAM, body]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # so that -u alone says it
    return subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env=environment, **more)


def ended(body: str, *options: str, **more) -> tuple[int, str]:
    """The exit code of a command that does ``body``, and what it says on standard error."""
    with started(body, *options, **more) as process:
        assert process.stderr is not None
        return process.wait(), process.stderr.read()


def test_reader_that_went_away_is_quiet():
    with started("for line in range(1_000_000): print(line)", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141


@pytest.mark.parametrize(
    "body",
    [
        "print('a')",
        "print('a' * 100_000)",
        "import argparse; argparse.ArgumentParser().parse_args(['--help'])",
    ],
)
@pytest.mark.parametrize("options", [(), ("-u",)])
def test_output_that_cannot_be_written_is_a_sentence(body: str, options: tuple[str, ...]):
    with open("/dev/full", "w") as full:
        code, said = ended(body, *options, stdout=full)
    reason = "No space left on device"
    assert said == f"error: standard output cannot be written ({reason}); send it elsewhere\n"
    assert code == 2


def test_streams_that_are_closed():
    code, said = ended("print('a')", preexec_fn=lambda: os.close(1))
    assert (code, said.startswith("error: standard output cannot be written (")) == (2, True)
    assert ended("time.sleep(0)", preexec_fn=lambda: os.close(1)) == (0, "")
    with started(
        "from gq_tvm import Error; raise Error('a')", preexec_fn=lambda: os.close(2)
    ) as it:
        assert it.wait() == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_lacks_is_escaped(encoding: str):
    """A name that is no UTF-8 comes from the system as half characters."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "print('\\u4e09 \\udce9')"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    third = "\u4e09" if encoding == "utf-8" else "\\u4e09"
    assert done.stdout.decode() == f"{third} \\udce9\n"
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("ignored", [True, False])
def test_it_ends_as_by_an_interrupt(number: signal.Signals, ignored: bool, tmp_path: Path):
    """Also where SIGINT is ignored, as a shell has it for what runs in the background."""
    body = (
        "import tempfile, pathlib\n"
        f"with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):\n"
        "    print(flush=True)\n"
        "    time.sleep(60)\n"
    )
    interrupts = signal.SIG_IGN if ignored else signal.default_int_handler
    before = {
        one: signal.signal(one, handler)  # `nohup` has them otherwise, and the process inherits it
        for one, handler in ((signal.SIGINT, interrupts), (number, signal.SIG_DFL))
    }
    try:
        process = started(body, stdout=subprocess.PIPE)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
        assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []


def test_handlers_of_signals_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    assert command(lambda argv: 0)([]) == 0
    assert signal.getsignal(signal.SIGTERM) is before
    mine = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        kept = command(lambda argv: signal.getsignal(signal.SIGTERM) is signal.SIG_IGN)([])
        assert kept is True
    finally:
        signal.signal(signal.SIGTERM, mine)


def test_a_python_without_packages_is_a_sentence():
    """As the system's own is, before the environment was activated."""
    ran = subprocess.run(
        [sys.executable, "-S", "-m", "gq_tvm.compile", "--help"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"error: {sys.executable} has no package numpy: activate the")


def test_every_command_is_a_verb():
    package = Path(gq_tvm.__file__).parent
    doors = {path.stem for path in package.glob("*.py") if "\n@command\n" in path.read_text()}
    assert doors - {"__main__"} == VERBS.keys()


def test_a_verb_takes_what_follows_it(capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", "nowhere.gq", "--json"]) == 2
    assert "nowhere.gq" in capsys.readouterr().err


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{verb} " in shown and about in shown for verb, about in VERBS.items())


@pytest.mark.parametrize(("argv", "says"), [([], "a verb is missing"), (["no"], "no verb 'no'")])
def test_without_a_verb_there_is_a_sentence(argv, says, capsys: pytest.CaptureFixture[str]):
    assert main(argv) == 2
    assert says in capsys.readouterr().err
