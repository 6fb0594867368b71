"""What a file is, told by its content: users try all that models are kept in."""

from __future__ import annotations

import zipfile
from pathlib import Path

from gq_tvm.errors import Error

_EMPTY, _DAMAGED = "empty", "damaged, cut short or altered"
_AGAIN = "write it again with torch.export.save"
_EXPORT = "export the PyTorch model itself: torch.export.save(torch.export.export(model, inputs), "
_EXPORT += '"model.pt2")'
_WEIGHTS_ONLY = f"load them into their model and {_EXPORT}"

# The first bytes of a file, from an offset on.
_MAGIC = (
    (0, b"GGUF", "a GGUF file", _EXPORT),
    (4, b"TFL3", "a TensorFlow Lite model", _EXPORT),
    (0, b"\x89HDF", "an HDF5 file (Keras?)", _EXPORT),
    (0, b"\x7fELF", "compiled code", _EXPORT),
    (0, b"\x80\x02", "a pickle (an old torch.save)", _WEIGHTS_ONLY),
    (0, b"\x80\x04", "a pickle", _WEIGHTS_ONLY),
    (0, b"\x80\x05", "a pickle", _WEIGHTS_ONLY),
    (0, b"PK\x03\x04", _DAMAGED, _AGAIN),
)


def check_is_pt2(path: Path) -> None:
    """Refuse what is no ``.pt2`` file, in words that say what it is.

    Raises:
        Error: it is something else, or cannot be read.
    """
    if not path.exists():
        raise Error(f"{path} does not exist; give the path of a .pt2 file")
    if not path.is_dir() and not path.is_file():
        raise Error(f"{path} is no ordinary file; give the path of a .pt2 file")
    try:
        what, cure = _folder(path) if path.is_dir() else _file(path)
    except OSError as failure:
        raise Error(f"{path} cannot be read ({failure.strerror})") from failure
    if what:
        other = "" if what in (_EMPTY, _DAMAGED) else ", not a .pt2 file"
        raise Error(f"{path} is {what}{other}; {cure}")


def _folder(path: Path) -> tuple[str, str]:
    for name, what in (("manifest.json", "an artefact"), ("plan.txt", "a bundle")):
        if (path / name).is_file():
            return f"{what}, compiled already", "give the .pt2 file it was compiled from"
    return "a folder", "give the path of a .pt2 file"


def _file(path: Path) -> tuple[str, str]:
    """What a file is and what to do about it; two empty texts for a ``.pt2``."""
    if zipfile.is_zipfile(path):
        return _archive(path)
    with open(path, "rb") as stream:
        start = stream.read(4096)
    if not start:
        return _EMPTY, _AGAIN
    for offset, magic, what, cure in _MAGIC:
        if start[offset:].startswith(magic):
            return what, cure
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return "a safetensors file, which holds weights alone", _WEIGHTS_ONLY
    if (
        start[:1] == b"\x08"
        and 0 < start[1] < 32
        and start[2:3] in (b"\x12", b"\x1a", b"\x22", b":")
    ):
        return "an ONNX model", "call it .onnx"
    try:
        start[:4090].decode("utf-8")
    except UnicodeDecodeError as failure:
        if failure.start < len(start[:4090]) - 4:
            return "of a kind not known here", _EXPORT
    return ("a text file" if b"\0" not in start else "of a kind not known here"), _EXPORT


def _archive(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except OSError:
        raise
    except Exception:  # what is wrong with a directory is told in many ways
        return _DAMAGED, _AGAIN
    inside = {name.partition("/")[2] for name in names}
    if "archive_format" in inside or any(one.startswith("models/") for one in inside):
        return "", ""
    if "serialized_exported_program.json" in names:
        return "an exported program of PyTorch 2.7 or older", (
            "load it with torch.export.load and save it again with a newer PyTorch"
        )
    if any(one.startswith("code/") for one in inside):
        return "a TorchScript model (torch.jit.save)", _EXPORT
    if "data.pkl" in inside:
        return "what torch.save wrote", _WEIGHTS_ONLY
    if names and all(name.endswith(".npy") for name in names):
        return "an .npz file of arrays", _EXPORT
    return "a zip file of something else", _EXPORT
