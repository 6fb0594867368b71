from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from gq_tvm.errors import Error
from gq_tvm.runtime.artefact import weights

DTYPES = st.sampled_from([np.uint8, np.int8, np.float32, np.int64, np.bool_])
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9))


@settings(max_examples=40)
@given(st.dictionaries(st.text(min_size=1, max_size=8), ARRAYS, max_size=5))
def test_written_and_mapped(tmp_path_factory, arrays):
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    weights.write(file, arrays)
    mapped = weights.mapped(file)
    by_others = load_file(file)
    assert mapped.keys() == arrays.keys()
    for name, array in arrays.items():
        for read in (mapped[name], by_others[name]):
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array)
        assert mapped[name].size == 0 or mapped[name].ctypes.data % weights.ALIGNMENT == 0


def test_mapping_does_not_copy(tmp_path):
    file = tmp_path / "w.safetensors"
    weights.write(file, {"a": np.zeros(1 << 20, np.uint8)})
    array = weights.mapped(file)["a"]
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_a_dtype_the_format_lacks_is_refused(tmp_path):
    with pytest.raises(Error, match="parameter a has dtype complex64"):
        weights.write(tmp_path / "w.safetensors", {"a": np.zeros(2, np.complex64)})


def test_a_name_the_file_needs_is_refused(tmp_path):
    for name in ("__metadata__", ".fill.0"):
        with pytest.raises(Error, match=f"the file of weights needs the name {name}"):
            weights.write(tmp_path / "w.safetensors", {name: np.zeros(2)})


def file_of(header: object, data: int = 128, length: int | None = None) -> bytes:
    """A safetensors file with zeros for data; a header may be text, its length another."""
    text = header if isinstance(header, str) else json.dumps(header)
    text += " " * (-(8 + len(text)) % 64)
    return struct.pack("<Q", len(text) if length is None else length) + text.encode() + bytes(data)


def entry(begin: int, end: int, **other: object) -> dict:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end], **other}


ONE = json.dumps(entry(0, 128))
FILES = {
    "empty": (b"", "cannot mmap an empty file"),
    "a byte": (b"\x01", "it has no header"),
    "a header without end": (b"\xff" * 40, "the length of its header"),
    "a header that is a bit shorter": (file_of({"a": entry(0, 128)}, length=55), "the length of"),
    "a list": (file_of([]), "its header is \\[\\], not a table"),
    "no JSON": (file_of("{"), "it is no JSON"),
    "no end of brackets": (file_of("[" * 9999), "too many brackets"),
    "a name twice": (file_of(f'{{"a": {ONE}, "a": {ONE}}}'), 'it has "a" twice'),
    "no offsets": (file_of({"a": {"dtype": "U8", "shape": [128]}}), "a.data_offsets is missing"),
    "more than the format has": (file_of({"a": entry(0, 128, more=1)}), "a.more is unknown"),
    "metadata of numbers": (file_of({"__metadata__": {"x": 1}}, 0), "__metadata__.x is 1"),
    "an unknown dtype": (file_of({"a": entry(0, 128, dtype="F8")}), "dtype F8, which is unknown"),
    "a shape of another size": (file_of({"a": entry(0, 128, shape=[9])}), "a does not lie"),
    "a negative size": (file_of({"a": entry(0, 128, shape=[-2, -64])}), "no shape that can be"),
    "offsets without end": (
        file_of({"a": entry(0, 2**63)}),
        "is 9223372036854775808, more than 64",
    ),
    "negative offsets": (file_of({"a": entry(-64, 64)}), "does not lie behind the tensor before"),
    "a tensor over another": (
        file_of({"a": entry(0, 128), "b": entry(64, 128)}),
        "b does not lie behind the tensor before it",
    ),
    "a gap": (file_of({"a": entry(64, 128)}), "a does not lie behind the tensor before it"),
    "bytes behind the last": (file_of({"a": entry(0, 64)}), "its size is not that of its tensors"),
    "fewer bytes than tensors": (file_of({"a": entry(0, 192)}), "its size is not that of"),
    "not aligned": (file_of({"a": entry(0, 32), "b": entry(32, 128)}), "b does not begin at a mul"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_safetensors_file_is_refused(name, tmp_path):
    content, message = FILES[name]
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    with pytest.raises(Error, match=f"not a readable safetensors file .*{message}"):
        weights.mapped(file)
