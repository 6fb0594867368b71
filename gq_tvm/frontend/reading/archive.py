"""The ``.pt2`` archive, read as data.

PyTorch's reader unpickles some members and loads code from others, so a file could run what its
author likes. So the archive's own tables are read first, what is no plain table or tensor is
refused, and PyTorch's reader is given an archive of our own making: the programs, the bytes that
their tensors take and nothing else. Format: ``torch/export/pt2_archive`` and
``torch/_export/serde/schema.py`` of PyTorch 2.13; other versions of 2.x write the same.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gq_tvm.errors import Error

_MODELS, _WEIGHTS, _CONSTANTS = "models/", "data/weights/", "data/constants/"
_SAMPLES, _COMPILED, _EXTRA = "data/sample_inputs/", "data/aotinductor/", "extra/"
_TRUSTED = (
    "which could run anything; if you trust it, load it with torch.export.load and give "
    "gq_tvm.build what that returns"
)


class Archive:
    """A ``.pt2`` file whose members are plain data.

    Attributes:
        names: Of its programs.
        extra: The texts that came with them, by name.
    """

    def __init__(self, path: Path) -> None:
        """Read the archive's tables.

        Raises:
            Error: the file is no such archive, is damaged, or holds more than plain data.
        """
        self._path = path
        self._zip = _Zip(path.read_bytes(), str(path))
        members = self._zip.sizes
        if self._zip.member("archive_format") != b"pt2":
            raise Error(f"{path} is not a .pt2 file; write it with torch.export.save")
        for name in members:
            self._refuse_code(name)
        ends = (len(_MODELS), -len(".json"))
        self.names = [n[slice(*ends)] for n in members if n.startswith(_MODELS)]
        self.extra = {
            name.removeprefix(_EXTRA): self._zip.text(name)
            for name in members
            if name.startswith(_EXTRA)
        }

    def rewritten(self) -> io.BytesIO:
        """The archive for PyTorch's reader: the programs and their tensors.

        Raises:
            Error: a table is damaged or asks for more than plain data.
        """
        from torch.export.pt2_archive._package import PT2ArchiveWriter

        from gq_tvm.frontend.reading.program_table import plain

        content = io.BytesIO()
        with PT2ArchiveWriter(content) as writer:
            for name in self.names:
                table = plain(self._json(f"{_MODELS}{name}.json"), str(self._path))
                writer.write_string(f"{_MODELS}{name}.json", json.dumps(table))
                writer.write_bytes(f"{_SAMPLES}{name}.pt", b"")
                for folder, kind in ((_WEIGHTS, "weights"), (_CONSTANTS, "constants")):
                    file = f"{folder}{name}_{kind}_config.json"
                    config = self._json(file)
                    writer.write_string(file, json.dumps(config))
                    for member, data in self._tensors(config, folder):
                        if not writer.has_record(member):
                            writer.write_bytes(member, data)
        content.seek(0)
        return content

    def samples(self, name: str) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The arguments a program was exported with, None if they did not come along.

        Raises:
            Error: they are more than tensors, numbers, tuples, lists and dicts.
        """
        import torch

        member = f"{_SAMPLES}{name}.pt"
        data = self._zip.member(member) if member in self._zip.sizes else b""
        if not data:
            return None
        _Zip(data, f"{self._path}: {member}")
        try:
            args, kwargs = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as failure:
            raise Error(
                f"{self._path} holds sample inputs that are not tensors alone, {_TRUSTED}"
            ) from failure
        return tuple(args), dict(kwargs)

    def _refuse_code(self, name: str) -> None:
        folder, _, leaf = name.rpartition("/")
        folder += "/"
        what = ""
        if name.startswith(_COMPILED):
            what = "compiled code"
        elif folder == _WEIGHTS and leaf.endswith(".pt"):
            what = "pickled weights"
        elif folder == _CONSTANTS and (leaf.endswith(".pt") or not leaf.startswith("tensor_")):
            what = "" if leaf.endswith("_config.json") else "pickled constants"
        if what:
            raise Error(f"{self._path} holds {what} ({name}), {_TRUSTED}")

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self._zip.text(name))
        except (ValueError, RecursionError) as failure:
            raise _damaged(self._path, f"{name} is not valid JSON") from failure

    def _tensors(self, config: Any, folder: str) -> Iterator[tuple[str, bytes]]:
        """The members a table names, each as long as its tensors need."""
        needed: dict[str, int] = {}
        for tensor, entry in _entries(config, self._path):
            file = entry.get("path_name")
            if entry.get("use_pickle") or not str(file).startswith(("weight_", "tensor_")):
                raise Error(f"{self._path} holds a pickled tensor ({tensor}), {_TRUSTED}")
            try:
                size = _bytes_of(entry["tensor_meta"])
            except (KeyError, TypeError, ValueError, AttributeError) as failure:
                raise _damaged(self._path, f"the table of {tensor}") from failure
            needed[f"{folder}{file}"] = max(size, needed.get(f"{folder}{file}", 0))
        for member, size in needed.items():
            data = self._zip.member(member) if size else b""
            if len(data) < size:
                raise _damaged(self._path, f"{member} has {len(data)} bytes of {size}")
            yield member, data[: -(-size // _ROUND) * _ROUND]


_ROUND = 16  # a whole number of elements of any dtype


class _Zip:
    """A zip file of plain members, as PyTorch writes it; its one folder is left out of the names.

    Attributes:
        sizes: The size of each member.
    """

    def __init__(self, content: bytes, name: str) -> None:
        """Read the directory. Raises `Error` if it is damaged or members are compressed."""
        self._name = name
        try:
            self._file = zipfile.ZipFile(io.BytesIO(content))
        except Exception as failure:  # what is wrong with a directory is told in many ways
            raise _damaged(name, str(failure) or type(failure).__name__) from failure
        members = self._file.infolist()
        self._members = {one.filename.partition("/")[2]: one for one in members}
        self.sizes = {key: one.file_size for key, one in self._members.items()}
        if len(self._members) != len(members):
            raise _damaged(name, "two members have one name")
        for one in members:
            if one.compress_type != zipfile.ZIP_STORED or one.compress_size != one.file_size:
                raise _damaged(name, f"{one.filename} is compressed, which PyTorch never does")
        if sum(self.sizes.values()) > len(content):
            raise _damaged(name, "its members overlap")

    def member(self, name: str) -> bytes:
        """A member's content; raises `Error` if it is missing or damaged."""
        if name not in self._members:
            raise _damaged(self._name, f"{name} is missing")
        try:
            return self._file.read(self._members[name])
        except Exception as failure:
            raise _damaged(self._name, str(failure) or f"{name} is cut short") from failure

    def text(self, name: str) -> str:
        """A member's text; raises `Error` as `member` does."""
        try:
            return self.member(name).decode("utf-8")
        except UnicodeDecodeError as failure:
            raise _damaged(self._name, f"{name} is no text") from failure


def _entries(config: Any, path: Path) -> list[tuple[str, dict[str, Any]]]:
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise _damaged(path, "a table of tensors")
    return list(entries.items())


def _bytes_of(meta: dict[str, Any]) -> int:
    """The bytes up to the last element of a tensor."""
    import torch
    from torch._export.serde.schema import ScalarType
    from torch._export.serde.serialize import deserialize_scalar_type

    element = torch._utils._element_size(deserialize_scalar_type(ScalarType(meta["dtype"])))
    sizes, strides = ([one["as_int"] for one in meta[key]] for key in ("sizes", "strides"))
    offset = meta["storage_offset"]["as_int"]
    if min([*sizes, *strides, offset]) < 0 or len(sizes) != len(strides):
        raise ValueError("a negative size")
    if 0 in sizes:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    return (offset + last + 1) * element


def _damaged(path: Path | str, why: str) -> Error:
    return Error(f"{path} is damaged ({why}); write it again with torch.export.save")
