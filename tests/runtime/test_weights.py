from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from gq_tvm.errors import Error
from gq_tvm.runtime import weights

DTYPES = st.sampled_from([np.uint8, np.int8, np.float32, np.int64, np.bool_])
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9))


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


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        b"\xff" * 40,
        b"\x02\0\0\0\0\0\0\0[]",
        b'\x0e\0\0\0\0\0\0\0{"a": {"b": 1}',
        b'\x40\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}          ',
    ],
)
def test_what_is_no_safetensors_file_is_refused(content, tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    with pytest.raises(Error, match="not a readable safetensors file"):
        weights.mapped(file)
