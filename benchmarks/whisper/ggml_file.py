"""The weights as whisper.cpp reads them: its ``ggml`` file, in float or quantised.

Rounding is ggml's own (``ggml_quantize_chunk`` of the library in the wheel), of the matrices that
whisper.cpp's ``quantize`` takes: all but convolutions and positions.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from examples.whisper.log_mel import filters
from examples.whisper.network import Whisper
from examples.whisper.tokens import Vocabulary

_MAGIC, _QUANTISED = 0x67676D6C, 2000  # the version of quantised files, thousands
F32, F16 = 0, 1
#: Types of tensors, and of files, by name.
TYPES = {"f16": (F16, 1), "q4_0": (2, 2), "q5_0": (6, 8), "q8_0": (8, 7)}

_PARTS = (
    ("self_attn_layer_norm", "attn_ln"), ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("final_layer_norm", "mlp_ln"), ("encoder_attn.", "cross_attn."), ("self_attn.", "attn."),
    ("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out"),
    ("fc1", "mlp.0"), ("fc2", "mlp.2"), ("layers.", "blocks."),
    ("embed_positions.weight", "positional_embedding"), ("embed_tokens", "token_embedding"),
    ("encoder.layer_norm", "encoder.ln_post"), ("decoder.layer_norm", "decoder.ln"),
)  # fmt: skip


def write(whisper: Whisper, vocabulary: Vocabulary, kind: str, library: Path, path: Path) -> None:
    """Write a model.

    Args:
        whisper: In float.
        vocabulary: Of it.
        kind: One of ``TYPES``.
        library: The wheel's libggml-base.so.
        path: To be written.
    """
    sizes, (tensor_type, file_type) = whisper.sizes, TYPES[kind]
    quantised = _QUANTISED if kind != "f16" else 0
    side = (sizes.width, sizes.heads, sizes.layers)
    with open(path, "wb") as file:
        numbers = (sizes.vocabulary, sizes.frames, *side, sizes.context, *side, sizes.mels)
        file.write(struct.pack("<I11i", _MAGIC, *numbers, quantised + file_type))
        bank = filters(sizes.mels).astype(np.float32)
        file.write(struct.pack("<2i", *bank.shape) + bank.tobytes())
        file.write(struct.pack("<i", vocabulary.end))
        for token in range(vocabulary.end):
            data = vocabulary.data([token])
            file.write(struct.pack("<i", len(data)) + data)
        for name, array in _tensors(whisper):
            _write_tensor(file, name, array, tensor_type, library)


def _tensors(whisper: Whisper) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name, tensor in whisper.state_dict().items():
        if name == "proj_out.weight":
            continue  # the embedding of the tokens
        for ours, theirs in _PARTS:
            name = name.replace(ours, theirs)
        array = tensor.numpy()
        yield name, array[:, None] if "conv" in name and array.ndim == 1 else array


def _write_tensor(
    file: BinaryIO, name: str, array: NDArray[np.float32], matrices: int, library: Path
) -> None:
    positions, bias = "positional" in name, name.endswith("bias")
    kind = F32 if array.ndim == 1 or bias or positions else matrices if array.ndim == 2 else F16
    file.write(struct.pack("<3i", array.ndim, len(name), kind))
    file.write(struct.pack(f"<{array.ndim}i", *reversed(array.shape)) + name.encode())
    if kind in (F32, F16):
        file.write(np.ascontiguousarray(array, np.float32 if kind == F32 else np.float16).data)
    else:
        file.write(_quantised(array, kind, library))


def _quantised(array: NDArray[np.float32], kind: int, library: Path) -> bytes:
    ggml = ctypes.CDLL(str(library))
    ggml.ggml_row_size.restype = ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    source = np.ascontiguousarray(array)
    rows, columns = source.shape
    target = np.empty(rows * ggml.ggml_row_size(kind, columns), np.uint8)
    ggml.ggml_quantize_chunk(kind, source.ctypes.data, target.ctypes.data, 0, rows, columns, None)
    return target.tobytes()
