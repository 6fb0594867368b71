from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from gq_tvm.errors import Error
from gq_tvm.speech import synthetic
from gq_tvm.speech.synthetic import Voice

ESPEAK = pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")


def test_neither_program_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Error, match=r"apt-get install espeak-ng flite"):
        synthetic.voices()


@ESPEAK
def test_voices_are_really_there():
    low, high = synthetic.voices()
    variants = subprocess.run(
        ["espeak-ng", "--voices=variant"], capture_output=True, text=True
    ).stdout.split()
    names = {v.name.partition("+")[2] for v in low + high if v.program == "espeak-ng"}
    assert len(names) > 30
    assert all(f"!v/{name}" in variants for name in names)


@ESPEAK
def test_speech_is_cached_and_voices_differ(tmp_path, monkeypatch):
    voice = Voice("espeak-ng", "en-us+f2")
    first = synthetic.speak("seven", voice, tmp_path)
    samples = first.samples(8000)
    assert len(samples) > 1000
    assert np.abs(samples).max() > 0.05
    other = synthetic.speak("seven", Voice("espeak-ng", "en-us+m3"), tmp_path)
    assert not np.array_equal(other.samples(8000), samples)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setenv("PATH", "")  # nothing more can be spoken, but the cache answers
    assert synthetic.speak("seven", voice, tmp_path) == first


@pytest.mark.parametrize("script", ["echo no such voice >&2; exit 1", "exit 0"])
def test_a_program_that_fails_leaves_nothing_behind(tmp_path, monkeypatch, script):
    program = tmp_path / "espeak-ng"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Error, match=r"cannot speak with voice en-us: (no such voice|it wrote no)"):
        synthetic.speak("seven", Voice("espeak-ng", "en-us"), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
