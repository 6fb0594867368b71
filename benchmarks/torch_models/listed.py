"""The models: small ones of the architectures, with random weights."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.torch_models.wrapped import Chosen, DecoderStep, Streaming
from gq_tvm.errors import Error

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        name: Of its row and its result file.
        package: It is in.
        make: Makes the model, given the folder of packages that are read but not imported.
        inputs: Makes inputs; each call gives others.
    """

    name: str
    package: str
    make: Callable[[Path | None], nn.Module]
    inputs: Callable[[], Inputs]


def _ids() -> Tensor:
    return torch.randint(3, 90, (1, 12))


def _wave() -> Tensor:
    return 0.1 * torch.randn(1, 8000)


_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_SMALL = {"hidden_size": 64, **_LAYERS}
_CONVOLUTIONS = {
    "conv_dim": (32, 32, 32), "conv_kernel": (10, 3, 3), "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
_BOTH = {
    "vocab_size": 100, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
}  # fmt: skip
_WHISPER = {
    **_BOTH, "d_model": 64, "num_mel_bins": 20, "max_source_positions": 50, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
_WAVES = {**_SMALL, **_CONVOLUTIONS, "vocab_size": 32}
_TEXT = {**_SMALL, "vocab_size": 100}


def _transformers(model: str, config: str, options: dict[str, Any]) -> nn.Module:
    """A model of transformers, whose configuration is so named."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    _declare_operators()  # transformers imports torchvision where there is one
    package = importlib.import_module("transformers")
    package.logging.set_verbosity_error()
    made: nn.Module = getattr(package, model)(getattr(package, config)(**options))
    return made


def _row(
    name: str,
    model: str,
    config: str,
    options: dict[str, Any],
    arguments: dict[str, Callable[[], Tensor]],
    part: str = "",
    **constant: Any,
) -> Row:
    """A model of transformers that is given arguments by name and gives its first output."""

    def make(folder: Path | None) -> nn.Module:
        whole = _transformers(model, config, options)
        return Chosen(whole.get_submodule(part), tuple(arguments), constant)

    return Row(name, "transformers", make, lambda: tuple(one() for one in arguments.values()))


_FIRST: dict[str, Any] = {"return_dict": False}
_NO_CACHE = {**_FIRST, "use_cache": False}


def _whisper_step(folder: Path | None) -> nn.Module:
    return DecoderStep(_transformers("WhisperForConditionalGeneration", "WhisperConfig", _WHISPER))


def _step_inputs() -> Inputs:
    cached = tuple(torch.randn(1, 4, 7, 16) for _ in range(4))  # keys and values of two layers
    return torch.randint(3, 90, (1, 1)), torch.randn(1, 50, 64), *cached


def _mobilenet(folder: Path | None) -> nn.Module:
    _declare_operators()
    made: nn.Module = importlib.import_module("torchvision").models.mobilenet_v3_small()
    return _normed(made, torch.randn(8, 3, 96, 96))


def _normed(model: nn.Module, x: Tensor) -> nn.Module:
    """As if trained: without statistics a deep net with batch norms gives its last bias alone."""
    for one in model.modules():
        if isinstance(one, nn.BatchNorm2d):
            one.momentum = None  # the mean over all batches
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def _vit_tiny(folder: Path | None) -> nn.Module:
    _declare_operators()
    made: nn.Module = importlib.import_module("timm").create_model("vit_tiny_patch16_224")
    return made


def _declare_operators() -> None:
    """Operators of torchvision that are missing where it was built for another PyTorch."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)


_KEPT: list[Any] = []  # a library's operators live as long as it does


def _emformer(folder: Path | None) -> Any:
    """torchaudio does not import beside PyTorch for CPUs: one of its files is loaded by itself."""
    path = (folder or Path()) / "torchaudio" / "models" / "emformer.py"
    if not path.is_file():
        raise Error(f"{path} does not exist; unpack torchaudio and give its folder as --unpacked")
    spec = importlib.util.spec_from_file_location("emformer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Emformer(64, 4, 128, 2, 16, left_context_length=8, right_context_length=4)


def _emformer_step(folder: Path | None) -> nn.Module:
    return Streaming(_emformer(folder))


def _noise(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(shape)


_W2V, _W2V_CONFORMER = "Wav2Vec2", "Wav2Vec2Conformer"
_POSITIONS = "position_embeddings_type"
_TEXTS = {"input_ids": _ids}
_SPEECH = {"input_values": _wave}
_IMAGES = {"pixel_values": _noise(1, 3, 64, 64)}
_LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
ROWS = (
    *(
        _row(name, f"{kind}ForCTC", f"{kind}Config", {**_WAVES, **more}, _SPEECH, **_FIRST)
        for name, kind, more in (
            ("Wav2Vec2, group norm", _W2V, {}),
            ("Wav2Vec2, layer norm", _W2V, _LAYER_NORM),
            ("Wav2Vec2Conformer, relative", _W2V_CONFORMER, {_POSITIONS: "relative"}),
            ("Wav2Vec2Conformer, rotary", _W2V_CONFORMER, {_POSITIONS: "rotary"}),
            ("HuBERT", "Hubert", {}),
            ("WavLM", "WavLM", {}),
        )
    ),
    _row("Parakeet (FastConformer)", "ParakeetForCTC", "ParakeetCTCConfig",
         {"vocab_size": 64, "encoder_config": {
             **_SMALL, "num_mel_bins": 80, "subsampling_conv_channels": 32}},
         {"input_features": _noise(1, 200, 80)}, **_FIRST),
    _row("Whisper, encoder", "WhisperForConditionalGeneration", "WhisperConfig", _WHISPER,
         {"input_features": _noise(1, 20, 100)}, "model.encoder", **_FIRST),
    _row("Whisper, whole without a cache", "WhisperForConditionalGeneration", "WhisperConfig",
         _WHISPER, {"input_features": _noise(1, 20, 100), "decoder_input_ids": _ids}, **_NO_CACHE),
    _row("Whisper, decoder without a cache", "WhisperForConditionalGeneration", "WhisperConfig",
         _WHISPER, {"input_ids": _ids, "encoder_hidden_states": _noise(1, 50, 64)},
         "model.decoder", **_NO_CACHE),
    Row("Whisper, a step of the decoder with a cache", "transformers", _whisper_step, _step_inputs),
    _row("SpeechT5, recognition", "SpeechT5ForSpeechToText", "SpeechT5Config",
         {**_BOTH, **_CONVOLUTIONS, "hidden_size": 64},
         {**_SPEECH, "decoder_input_ids": _ids}, **_NO_CACHE),
    _row("Speech2Text", "Speech2TextForConditionalGeneration", "Speech2TextConfig",
         {**_BOTH, "d_model": 64, "input_feat_per_channel": 40, "conv_channels": 64},
         {"input_features": _noise(1, 80, 40), "decoder_input_ids": _ids}, **_NO_CACHE),
    _row("BERT, classification", "BertForSequenceClassification", "BertConfig", _TEXT, _TEXTS,
         **_FIRST),
    _row("BERT, masked words", "BertForMaskedLM", "BertConfig", _TEXT, _TEXTS, **_FIRST),
    _row("DistilBERT", "DistilBertForMaskedLM", "DistilBertConfig",
         {"vocab_size": 100, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}, _TEXTS,
         **_FIRST),
    _row("Llama", "LlamaForCausalLM", "LlamaConfig", {**_TEXT, "num_key_value_heads": 2}, _TEXTS,
         **_NO_CACHE),
    _row("GPT-2", "GPT2LMHeadModel", "GPT2Config",
         {"vocab_size": 100, "n_embd": 64, "n_layer": 2, "n_head": 4}, _TEXTS, **_NO_CACHE),
    _row("T5", "T5ForConditionalGeneration", "T5Config",
         {"vocab_size": 100, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2,
          "num_heads": 4}, {**_TEXTS, "decoder_input_ids": _ids}, **_NO_CACHE),
    _row("Mamba", "MambaForCausalLM", "MambaConfig",
         {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2}, _TEXTS, **_NO_CACHE),
    _row("AST", "ASTForAudioClassification", "ASTConfig",
         {**_SMALL, "max_length": 64, "num_mel_bins": 32},
         {"input_values": _noise(1, 64, 32)}, **_FIRST),
    _row("SpeechT5, HiFi-GAN", "SpeechT5HifiGan", "SpeechT5HifiGanConfig",
         {"model_in_dim": 20, "upsample_initial_channel": 64}, {"spectrogram": _noise(40, 20)}),
    _row("ViT", "ViTForImageClassification", "ViTConfig",
         {**_SMALL, "image_size": 64, "patch_size": 16}, _IMAGES, **_FIRST),
    Row("MobileNetV3 small", "torchvision", _mobilenet, lambda: (torch.randn(1, 3, 224, 224),)),
    Row("vit_tiny_patch16_224", "timm", _vit_tiny, lambda: (torch.randn(1, 3, 224, 224),)),
    Row("Emformer", "torchaudio", _emformer, lambda: (torch.randn(1, 36, 64), torch.tensor([36]))),
    Row("Emformer, a step with its state", "torchaudio", _emformer_step,
        lambda: (torch.randn(1, 20, 64), *Streaming.states())),
)  # fmt: skip
