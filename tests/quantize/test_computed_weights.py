"""Weights that a norm, pruning or another parametrisation computes, and results that are kept."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import gq_tvm.quantize
from gq_tvm.errors import Error

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way
X = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))


class Doubled(nn.Module):
    def forward(self, weight):
        return weight * 2


class Causal(nn.Conv1d):
    """Looks back alone."""

    def forward(self, input):
        return super().forward(nn.functional.pad(input, (2, 0)))


def parametrised(layer, *names):
    for name in names:
        parametrize.register_parametrization(layer, name, Doubled())
    return layer


def pruned_twice(layer):
    prune.l1_unstructured(layer, "weight", 0.3)
    prune.random_structured(layer, "weight", 0.2, dim=0)
    return layer


WAYS = {
    "old weight norm": lambda: nn.utils.weight_norm(nn.Conv1d(8, 8, 3)),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(8, 8)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5),
    "pruned twice": lambda: pruned_twice(nn.Linear(8, 8)),
    "pruned norm": lambda: prune.l1_unstructured(
        nn.utils.weight_norm(nn.Linear(8, 8)), "weight_v", 0.5
    ),
    "bias alone": lambda: prune.l1_unstructured(nn.Linear(8, 8), "bias", 0.5),
    "weight norm": lambda: parametrizations.weight_norm(Causal(8, 8, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(8, 8)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(8, 8)),
    "weight and bias": lambda: parametrised(nn.Linear(8, 8), "weight", "bias"),
    "of an lstm": lambda: parametrised(nn.LSTM(8, 8), "weight_ih_l0"),
    "old, of an lstm": lambda: nn.utils.weight_norm(nn.LSTM(8, 8), "weight_hh_l0"),
}


def outputs(model, x=X):
    y = model(x)
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("way", WAYS)
def test_a_computed_weight_is_folded(way):
    torch.manual_seed(0)
    model = WAYS[way]()
    outputs(model).sum().backward()  # norms of the old kind leave a weight with a gradient behind
    model.eval()
    wanted, names = outputs(model), set(model.state_dict())
    with pytest.warns(UserWarning, match=r"as they are now: (weight|bias)\w* \(\w+\)") as said:
        compressed = quantize.compress(model, 8, activation="fp32")
    assert len(said) == 1
    torch.testing.assert_close(outputs(compressed), wanted, atol=0.05, rtol=0)
    assert all(one.bits == 8 for one in quantize.describe(compressed))
    # The model given goes on as it was.
    assert set(model.state_dict()) == names
    assert torch.equal(outputs(model), wanted)
    outputs(model.train()).sum().backward()
    model.eval()
    with pytest.warns(UserWarning, match="become plain ones"):
        prepared = quantize.prepare(model, 8, activation="fp32")
    assert not [n for n in prepared.state_dict() if n.endswith(("_g", "_v", "_orig", "_mask"))]
    assert not parametrize.is_parametrized(prepared)
    outputs(prepared.train()).sum().backward()
    assert all(p.grad is not None for n, p in prepared.named_parameters() if "quant" not in n)
    pickle.loads(pickle.dumps(prepared))
    evaluated = outputs(prepared.eval())
    torch.testing.assert_close(outputs(quantize.convert(prepared)), evaluated)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_only_what_is_quantised_is_folded():
    model = nn.Sequential(WAYS["weight norm"](), WAYS["old weight norm"]())
    model.requires_grad_(False)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with pytest.raises(Error, match="matches no weight"):
        quantize.prepare(model, 4, {"2": 3})
    torch.testing.assert_close(dict(model.state_dict()), before)  # nothing half done
    assert [one.name for one in quantize.describe(model)] == ["0.weight", "1.weight"]
    quantize.prepare(model, 4, {"0": None})
    assert parametrize.is_parametrized(model[0])
    assert not model[1].weight.requires_grad  # as it was
    left = nn.ModuleList([parametrizations.weight_norm(nn.Conv3d(1, 1, 1)), nn.Linear(8, 8)])
    reasons = [one.remark for one in quantize.describe(quantize.compress(left)) if one.bits == 32]
    assert set(reasons) == {reasons[0]}
    assert reasons[0].startswith("what it parametrises is not one of the supported layers")


def test_a_spectral_norm_is_read_without_a_step_of_its_iteration():
    for way in ("spectral norm", "old spectral norm"):
        model = WAYS[way]()
        before = {name: one.clone() for name, one in model.state_dict().items()}
        quantize.describe(model)
        torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)
        assert all(module.training for module in model.modules())


def test_what_is_pruned_in_training_stays_pruned():
    prepared = quantize.prepare(nn.Linear(8, 8), 4, activation="fp32")
    prune.l1_unstructured(prepared, "weight", 0.5)
    prepared(X).sum().backward()
    converted = quantize.convert(prepared)
    assert set(converted.state_dict()) == {"indices", "codebook", "weight_scale", "bias"}
    torch.testing.assert_close(converted(X), prepared.eval()(X))


class Keeping(nn.Module):
    """Keeps what it computed, in several places."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.kept: list[Any] = []

    def forward(self, x):
        self.last = self.inner(x)
        self.kept.append({"output": self.last})
        return self.last


def test_a_model_that_keeps_its_outputs_is_copied():
    model: Any = Keeping()
    model(X)
    compressed = quantize.compress(model)
    assert torch.equal(compressed.last, model.last)
    assert compressed.kept[0]["output"] is compressed.last is not model.last
    assert not compressed.last.requires_grad
    prepared = quantize.prepare(model)
    prepared(X).sum().backward()
    torch.testing.assert_close(quantize.convert(prepared)(X), prepared.eval()(X))
    model.generator = (ord(one) for one in "abc")
    with pytest.raises(Error, match=r"^convert: the model cannot be copied .*take out of it what"):
        quantize.convert(model)
