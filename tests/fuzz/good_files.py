"""Good files of each kind, small, made by our own writers where there are some."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import soundfile
import torch
from helpers.codebook_models import Embedding, Linear, Lstm, frames
from numpy.typing import NDArray
from torch import nn

from gq_tvm.ops.weight import Weight
from gq_tvm.plan import text
from gq_tvm.runtime.artefact import weights
from gq_tvm.runtime.artefact.folder import KERNELS, MANIFEST, PLAN, WEIGHTS
from gq_tvm.runtime.artefact.manifest import Manifest
from gq_tvm.speech.decoding import DECODERS
from gq_tvm.speech.description import RecogniserDescription
from gq_tvm.speech.features import FeatureSettings
from gq_tvm.weight_files import write_weights

_PLANS = Path(__file__).parents[1] / "plan"


def rng() -> np.random.Generator:
    """The same each time."""
    return np.random.default_rng(0)


class _Sizes(nn.Module):
    """What has a size computed from others, a view, and a branch for each of two inputs."""

    window: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(4, 3, 3, stride=2)
        self.table = nn.Embedding(7, 4)
        self.register_buffer("window", torch.arange(40.0).view(10, 4)[2:4, 1:3])

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.layer(x)
        return {"y": y.relu().mean(-1), "z": self.table(ids).flatten(1) * self.window.sum()}


def programs(folder: Path) -> list[bytes]:
    """Exported programs."""
    x = torch.randn(2, 4, 9)
    lstm = torch.zeros(1, 5, 4), torch.zeros(1, 3), torch.zeros(1, 3)
    each = (
        (Linear(6, 10), (torch.randn(7, 10),), {"x": {0: 2 * frames(2, 9) + 1}}),
        (Lstm(4, 3), lstm, None),
        (Embedding(7, 4), (torch.zeros(2, 3, dtype=torch.int64),), None),
        (_Sizes(), (x, torch.ones(2, 3, dtype=torch.int64)), {"x": {2: frames(5, 99)}, "ids": {}}),
    )
    exported = [
        torch.export.export(model.eval(), inputs, dynamic_shapes=dynamic)
        for model, inputs, dynamic in each
    ]
    return [_saved(one, folder / "a.pt2") for one in exported]


def _saved(program: torch.export.ExportedProgram, path: Path) -> bytes:
    torch.export.save(program, path, extra_files={"gq_metadata.json": "{}"})
    return path.read_bytes()


def gguf_files(folder: Path) -> list[bytes]:
    """Files of blocks and of plain floats, with metadata of each kind."""
    made = []
    for kind in ("Q4_0", "Q5_1", "Q6_K", "IQ4_NL", "MXFP4", "TQ1_0", "BF16"):
        its = getattr(gguf.GGMLQuantizationType, kind)
        per, size = gguf.GGML_QUANT_SIZES[its]
        path = folder / "a.gguf"
        writer = gguf.GGUFWriter(path, "any")
        writer.add_uint32("n", 3)
        writer.add_array("words", ["a", "bc"])
        writer.add_array("numbers", [1, 2, 3])
        blocks = rng().integers(60, 61, (2, 2 * size), dtype=np.uint8)
        writer.add_tensor("blocks", blocks, raw_dtype=its)
        writer.add_tensor("plain", np.ones((3, per % 7 + 1), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        made.append(path.read_bytes())
    return made


def safetensors_files(folder: Path) -> list[bytes]:
    """What ``gq-tvm import`` writes, and what others do."""
    codes = rng().integers(0, 8, (4, 32), np.uint8)
    table = np.arange(8, dtype=np.float32)[None]
    scale = np.ones(4, np.float32)
    both: dict[str, Weight | torch.Tensor] = {
        "w": Weight(codes, table, scale),
        "z": Weight(codes, table, np.ones((4, 2), np.float16), np.ones((4, 2), np.float16)),
        "b": torch.ones(3),
    }
    plain: dict[str, Weight | torch.Tensor] = {
        "m": torch.ones(3, 4),
        "h": torch.ones(5).half(),
        "n": torch.ones(2, 2).bfloat16(),
    }
    found = []
    for one in (both, plain):
        write_weights(one, folder / "a.safetensors")
        found.append((folder / "a.safetensors").read_bytes())
    header = {"f": {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]}}
    found.append(_packed(json.dumps(header).encode(), b"\x12\x34\x56\x78"))
    return found


def _packed(header: bytes, data: bytes) -> bytes:
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def weight_files(folder: Path) -> list[bytes]:
    """Weights of an artefact."""
    arrays: dict[str, NDArray] = {"a": np.ones((3, 5), np.float32), "b": np.arange(9, dtype="i1")}
    weights.write(folder / "a.safetensors", arrays)
    return [(folder / "a.safetensors").read_bytes()]


def recogniser() -> RecogniserDescription:
    """A description of a recogniser."""
    features = FeatureSettings(num_mel_bins=4, mean=(0.0,) * 4, deviation=(1.0,) * 4)
    states = {name: {"h": [1, 3]} for name in DECODERS["ctc"].STATES}
    return RecogniserDescription("ctc", ("<blank>", " ", "a"), features, states)


def manifests() -> list[bytes]:
    """Manifests of artefacts."""
    one = Manifest("native", 2, recogniser().to_dict(), {"gq-tvm": "1"})
    return [json.dumps(one.to_json()).encode(), json.dumps(Manifest("x86-64").to_json()).encode()]


def plans(folder: Path) -> list[bytes]:
    """Plans whose files lie in a folder: it is made an artefact of the first."""
    (folder / KERNELS).write_bytes(b"\x7fELF\2\1\1" + bytes(11) + struct.pack("<H", 62))
    weights.write(folder / WEIGHTS, {"a": np.ones(16, np.float32)})
    (folder / MANIFEST).write_bytes(manifests()[0])
    found = []
    for file in sorted(_PLANS.glob("*.txt")):
        content = file.read_text()
        for name, kind in ((KERNELS, "kernels"), (WEIGHTS, "weights")):
            told = text.content(folder / name)
            content = content.replace(f"{kind} 0 00000000", f"{kind} {told.size} {told.crc:08x}")
        found.append(text.sealed(content[: content.rfind("checksum")]))
    (folder / PLAN).write_bytes(found[0])
    return found


def recordings(folder: Path) -> list[bytes]:
    """Recordings of each kind that libsndfile writes and others read."""
    samples = rng().uniform(-1, 1, (300, 2))
    made = []
    for kind in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM", "GSM610"):
        soundfile.write(folder / "a.wav", samples[:, 0], 16000, kind)
        made.append((folder / "a.wav").read_bytes())
    for form in ("WAVEX", "RF64"):
        soundfile.write(folder / "a.wav", samples, 11025, "PCM_16", format=form)
        made.append((folder / "a.wav").read_bytes())
    for suffix in ("flac", "ogg"):
        soundfile.write(folder / f"a.{suffix}", samples, 16000)
        made.append((folder / f"a.{suffix}").read_bytes())
    made.append(made[1][:40] + b"\xff\xff\xff\xff" + made[1][44:])  # a recorder that was killed
    return made


def arrays(folder: Path) -> list[bytes]:
    """Inputs of a model, compressed or not."""
    made = []
    for write in (np.savez, np.savez_compressed):
        write(folder / "a.npz", x=np.ones((3, 2, 4), np.float32), ids=np.ones((3, 2), np.int64))
        made.append((folder / "a.npz").read_bytes())
    return made


def lists_of_recordings() -> list[bytes]:
    """Manifests of corpora."""
    lines = (
        {"path": "a.wav", "text": "one", "speaker": "s"},
        {"audio": "b.wav", "text": "two", "speaker": None},
    )
    return ["\n".join(map(json.dumps, lines)).encode()]
