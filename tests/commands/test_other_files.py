"""Every command given a file of another kind: a sentence, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from gq_tvm.__main__ import main
from gq_tvm.weight_files import write_weights

SUFFIXES = {
    "compile": (".pt2", ".onnx"),
    "compress": (".pt2", ".onnx"),
    "tune": (".pt2",),
    "sensitivity": (".pt2",),
    "verify": (".pt2",),
    "inspect": (".gq",),
    "profile": (".gq",),
    "transcribe": (".gq",),
    "train": (".toml",),
    "allocate": (".json", ".safetensors"),
    "import": (".gguf", ".safetensors"),
}
MORE = {
    "compile": ["-o", "OUT"],
    "compress": ["-o", "OUT"],
    "sensitivity": ["--inputs", "FILE"],
    "transcribe": ["FILE"],
    "allocate": ["--budget", "1KB"],
    "import": ["-o", "OUT"],
    "verify": ["FILE"],
}


def written(kind: str, path: Path) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "wav":
        soundfile.write(path, np.zeros(100), 8000, format="WAV")
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, x=np.ones(3))
    elif kind == "weights":
        write_weights({"w": torch.ones(3)}, path)
    else:
        path.write_bytes({"empty": b"", "text": b"a text\n", "zeros": bytes(300)}[kind])


@pytest.mark.parametrize("kind", ["empty", "text", "zeros", "folder", "wav", "npz", "weights"])
@pytest.mark.parametrize("verb", SUFFIXES)
def test_a_file_of_another_kind_is_refused_in_a_sentence(verb, kind, tmp_path, capfd):
    if (verb, kind) == ("import", "weights"):
        return  # that is its own kind
    for suffix in SUFFIXES[verb]:
        path = tmp_path / f"file{suffix}"
        written(kind, path)
        places = {"FILE": str(path), "OUT": str(tmp_path / "out")}
        argv = [verb, str(path), *(places.get(word, word) for word in MORE.get(verb, []))]
        assert main(argv) == 2
        said = capfd.readouterr().err.splitlines()
        assert len(said) == 1, said
        assert said[0].startswith("error: ")
        assert path.name in said[0] or (verb, kind) == ("train", "empty")  # which TOML may be
        assert not (tmp_path / "out").exists()
