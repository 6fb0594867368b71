from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gq_tvm import quantize
from gq_tvm.errors import Error


class Model(nn.Module):
    """Layers that become codebook layers, an LSTM that does not, and a head that is tied."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        self.conv = nn.Conv1d(32, 32, 3, padding=1)
        self.lstm = nn.LSTM(32, 32, batch_first=True)
        self.norm = nn.BatchNorm1d(32)
        self.free = nn.Linear(32, 32)
        self.out = nn.Linear(32, 40, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        x = self.norm(self.conv(self.embed(ids).mT)).mT
        return self.out(self.free(self.lstm(x)[0]))


def palettised(seed=1):
    """A model of few values a weight, but for one weight."""
    torch.manual_seed(seed)
    model = Model().eval()
    for name, one in model.named_parameters():
        if one.dim() > 1 and not name.startswith("free"):
            one.data = (torch.randn(16) / 4)[torch.randint(0, 16, one.shape)]
    return model


def saved(model, path, without=()):
    state = {k: v.clone() for k, v in model.state_dict().items() if k not in without}
    save_file(state, path)
    return path


def test_a_model_takes_all_weights_of_a_file(tmp_path):
    source, ids = palettised(), torch.arange(12)[None]
    file = saved(source, tmp_path / "a.safetensors", without=["out.weight"])
    model = Model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quantize.load_weights(model, file) is model
    kinds = [type(one) for one in (model.embed, model.conv, model.lstm, model.free, model.out)]
    assert kinds == [
        quantize.CodebookEmbedding, quantize.CodebookConv1d, nn.LSTM, nn.Linear,
        quantize.CodebookLinear,
    ]  # fmt: skip
    assert model.out.indices is model.embed.indices
    assert torch.equal(model(ids), source(ids))
    assert not model.training


def test_what_is_missing_or_left_over_is_told_in_a_sentence_each(tmp_path):
    source = palettised()
    source.more = nn.Linear(3, 3)
    file = saved(source, tmp_path / "a.safetensors", without=["conv.weight", "free.bias"])
    with pytest.warns(UserWarning, match="load_weights") as told:
        quantize.load_weights(Model(), file)
    sentences = [str(one.message).partition(str(file))[2] for one in told]
    assert sentences == [
        " lacks conv.weight, free.bias", " has beside the model's more.bias, more.weight",
    ]  # fmt: skip


def test_names_and_activations_may_be_given(tmp_path):
    table = torch.randn(4)
    save_file({"blk.0.w": table[torch.randint(0, 4, (16, 32))]}, tmp_path / "a.safetensors")
    model = nn.Sequential(nn.Linear(32, 16, bias=False))
    names = {"blk.0.w": "0.weight"}
    quantize.load_weights(model, tmp_path / "a.safetensors", "int8", names)
    assert model[0].activation == "int8"


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    file = saved(palettised(), tmp_path / "a.safetensors")
    model = Model()
    model.free = nn.Linear(32, 31)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(Error, match=r"free.weight has the shape \[32, 32\] in the file and \[31"):
        quantize.load_weights(model, file)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(Error, match="none of the 15 tensors"):
        quantize.load_weights(nn.Sequential(nn.Linear(2, 2)), file)
    with pytest.raises(Error, match="names has x, which is no tensor"):
        quantize.load_weights(model, file, names={"x": "y"})
    with pytest.raises(Error, match="two tensors one name"):
        quantize.load_weights(model, file, names={"free.bias": "conv.bias"})
