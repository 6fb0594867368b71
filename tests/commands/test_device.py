from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gq_tvm import demo_prompts
from gq_tvm.device import main
from gq_tvm.runtime.devices.device import connect
from gq_tvm.toolchain.elf import machine


@pytest.mark.emulated
def test_serves_until_interrupted(emulated):
    emulated()
    process = subprocess.Popen(
        [sys.executable, "-m", "gq_tvm.device", "--cpu", "cortex-a76"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("An emulated cortex-a76 listens: --rpc 127.0.0.1:")
        device = connect(line.partition("--rpc ")[2].split()[0])
        assert device.features == {"neon", "dotprod", "fp16"}
        device.close()
        process.send_signal(2)
        assert process.wait(timeout=30) == 130
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.emulated
def test_setup_only_says_where(emulated, capsys: pytest.CaptureFixture[str]):
    emulated()
    assert main(["--setup-only"]) == 0
    assert "is set up in" in capsys.readouterr().out


@pytest.mark.emulated
def test_board_folder_is_whole(emulated, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    emulated()
    folder = tmp_path / "board"
    assert main(["--board", str(folder)]) == 0
    programs = {path.name for path in folder.iterdir() if machine(path) == "aarch64"}
    named = (folder / "start").read_text().split()
    assert programs == {word.removeprefix("./") for word in named if word.startswith("./")}
    (folder / "rpc_server").write_text('#!/bin/sh\necho "$1 $2 $3"')
    said = subprocess.run([folder / "start", "9999"], cwd="/", capture_output=True, text=True)
    assert said.stdout == "0.0.0.0 9999 ./libtvm_ffi.so\n"
    capsys.readouterr()
    assert main(["--board", str(folder)]) == 2
    assert capsys.readouterr().err == f"error: {folder} exists: name a folder that does not\n"


@pytest.mark.parametrize("wrong", [["--cpu", "z80"], ["--port", "70000"], ["--port", "x"]])
def test_wrong_options_are_refused(wrong: list[str]):
    assert main(wrong) == 2


def test_prompts_in_the_cache_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "digits-asterisk-en"
    folder.mkdir()
    for digit in range(10):
        (folder / f"{digit}.wav").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    found = demo_prompts.digits(tmp_path)
    assert found[7] == (str(folder / "7.wav"), "seven")
    assert len(found) == 10
