"""Inputs of programs in ``.npz`` files: what the arrays are called, and what is wrong with them.

An array is named as the input it is for, or as ``program.input`` where there are several programs.
One with as many axes as the input serves every example; one with an axis more holds examples along
its first. How many axes an input has a program says, so there is no third reading.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npformat
from numpy.typing import NDArray

from gq_tvm import reading
from gq_tvm.errors import Error

if TYPE_CHECKING:
    from torch.export import ExportedProgram


@dataclass(frozen=True)
class Input:
    """An input of a function.

    Attributes:
        name: Its name.
        dtype: As NumPy spells it.
        shape: Sizes; a text names one known at run time.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def read_inputs(
    files: Iterable[str | os.PathLike[str]], programs: Mapping[str, ExportedProgram]
) -> list[tuple[Any, ...]]:
    """The examples in ``.npz`` files as arguments of what ``as_module`` makes of the programs.

    Args:
        files: Read one after the other: examples of other sizes need another file.
        programs: By name.

    Returns:
        For each example the tensors, behind the name of the program where there are several.

    Raises:
        Error: a file cannot be read, or its arrays do not fit.
    """
    import torch

    functions = {name: inputs_of(program) for name, program in programs.items()}
    found = []
    for file in files:
        for name, examples in read_arrays(file, functions).items():
            for arrays in examples:
                tensors = tuple(map(torch.from_numpy, arrays))
                found.append(tensors if len(programs) == 1 else (name, *tensors))
    return found


def inputs_of(program: ExportedProgram) -> list[Input]:
    """The inputs of a program, in order.

    Raises:
        Error: one is no tensor.
    """
    values = {
        node.name: node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")
    }
    found = []
    for name in program.graph_signature.user_inputs:
        value: Any = values.get(str(name))
        if not hasattr(value, "shape"):
            raise Error(f"input {name} is no tensor; export the model with tensor inputs only")
        shape = tuple(one if isinstance(one, int) else str(one) for one in value.shape)
        found.append(Input(str(name), str(value.dtype).removeprefix("torch."), shape))
    return found


def read_arrays(
    file: str | os.PathLike[str], functions: Mapping[str, Sequence[Input]]
) -> dict[str, list[list[NDArray]]]:
    """The examples in a file, for the functions it has inputs of.

    Args:
        file: An ``.npz`` file.
        functions: The inputs of each, by name.

    Returns:
        By function a list of examples, each an array for each input.

    Raises:
        Error: it is no such file, has the inputs of no function, lacks one of a function's, or an
            array does not fit; the text names it.
    """
    arrays = _loaded(file)
    found = {}
    for name, inputs in functions.items():
        before = f"{name}." if len(functions) > 1 else ""
        keys = [f"{before}{one.name}" for one in inputs]
        missing = [key for key in keys if key not in arrays]
        if not inputs or len(missing) == len(inputs):
            continue
        if missing:
            raise Error(
                f"{file} has no array {missing[0]}, an input of {name}; it has {_listed(arrays)}"
            )
        found[name] = _examples(file, inputs, [(key, arrays[key]) for key in keys])
    if not found:
        names = [
            one.name if len(functions) == 1 else f"{name}.{one.name}"
            for name, inputs in functions.items()
            for one in inputs
        ]
        raise Error(
            f"{file} has the inputs of no function; name the arrays {', '.join(names)} "
            f"(it has {_listed(arrays)})"
        )
    return found


_MOST_DEFLATED = 1032  # bytes that a byte may stand for (zlib.net, "Technical Details")

_PIECE = 1 << 20  # bytes that are read at once


def _loaded(file: str | os.PathLike[str]) -> dict[str, NDArray]:
    if not os.path.exists(file):
        raise Error(f"{file} does not exist; give the path of a file")
    with reading.opened(os.fspath(file), "an .npz file") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                members = archive.infolist()
                if sum(one.compress_size for one in members) > os.fstat(stream.fileno()).st_size:
                    raise ValueError("its members overlap")
                return {
                    one.filename.removesuffix(".npy"): _array(archive, one)
                    for one in members
                    if one.filename.endswith(".npy")
                }
        except Exception as failure:  # what is wrong with an archive is told in many ways
            raise Error(
                f"{file} is not a readable .npz file; write it with numpy.savez"
            ) from failure


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray:
    """An array, if its shape is that of the bytes there are: only then is memory taken.

    Raises:
        ValueError: it is not.
    """
    if member.file_size > _MOST_DEFLATED * member.compress_size:
        raise ValueError("a member is larger than what it is made of can be")
    with archive.open(member) as stream:
        header = _HEADERS[npformat.read_magic(stream)]
        shape, by_columns, dtype = header(stream)
        if dtype.hasobject or prod(shape) * dtype.itemsize != member.file_size - stream.tell():
            raise ValueError("an array is not of the size it says")
        array = np.empty(prod(shape), dtype)
        bytes_of = array.view(np.uint8)
        for at in range(0, array.nbytes, _PIECE):
            piece = stream.read(len(bytes_of[at : at + _PIECE]))
            bytes_of[at : at + _PIECE] = np.frombuffer(piece, np.uint8)
    return array.reshape(shape, order="F" if by_columns else "C")


_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): npformat.read_array_header_1_0,
    (2, 0): npformat.read_array_header_2_0,
}


def _listed(arrays: Mapping[str, Any]) -> str:
    return ", ".join(sorted(arrays)) or "none"


def _examples(
    file: str | os.PathLike[str], inputs: Sequence[Input], given: list[tuple[str, NDArray]]
) -> list[list[NDArray]]:
    counts: dict[str, int] = {}
    sizes: dict[str, tuple[int, str]] = {}
    for one, (key, array) in zip(inputs, given, strict=True):
        where = f"{key} in {file}"
        if array.dtype != np.dtype(one.dtype):
            raise Error(
                f"{where} is {array.dtype}, the model takes {one.dtype}; save "
                f"{key}.astype({one.dtype!r})"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Error(f"{where} holds a NaN or an infinity; leave those examples out")
        if array.ndim == len(one.shape) + 1:
            counts[key] = len(array)
        elif array.ndim != len(one.shape):
            raise Error(
                f"{where} has {array.ndim} axes, the model takes {len(one.shape)} (with one more, "
                "examples lie along the first)"
            )
        own = array.shape[array.ndim - len(one.shape) :]
        for axis, (size, wanted) in enumerate(zip(own, one.shape, strict=True)):
            if isinstance(wanted, str):
                first, other = sizes.setdefault(wanted, (size, key))
                if first != size:
                    raise Error(
                        f"{where} has {size} along axis {axis} of the input where {other} has "
                        f"{first}; the model takes equally many"
                    )
            elif size != wanted:
                raise Error(
                    f"{where} has {size} along axis {axis} of the input, the model takes {wanted}"
                )
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{key} {count}" for key, count in counts.items())
        raise Error(f"the arrays of {file} hold unlike numbers of examples: {told}")
    count = next(iter(counts.values()), 1)
    if not count:
        raise Error(f"{next(iter(counts))} in {file} holds no example; give one or more")
    return [[array[n] if key in counts else array for key, array in given] for n in range(count)]
