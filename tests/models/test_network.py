"""Networks by their settings, and what training makes small."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from helpers.small_networks import ALL, CTC, lively

from gq_tvm.errors import Error
from gq_tvm.models.data.batches import Batch
from gq_tvm.models.networks.network import NetworkSettings, build, task
from gq_tvm.models.training.objective import Teacher, objective


@pytest.mark.parametrize("name", ALL)
def test_settings_survive_json(name):
    settings = replace(ALL[name], features=7, tokens=9)
    read = NetworkSettings.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert read == settings
    assert task(build(read)) == name.split()[1]


def test_what_is_left_out_has_its_default():
    assert NetworkSettings.from_dict({}) == NetworkSettings()
    some = NetworkSettings.from_dict({"encoder": {"kind": "conformer", "layers": 2}})
    assert some == NetworkSettings(encoder=replace(some.encoder, layers=2))
    assert NetworkSettings.from_dict({"head": {"kind": "ctc"}}).head == CTC


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"layers": 3}, "a model has no 'layers'; it has encoder, features, head, tokens"),
        ({"encoder": {"kind": "gru"}}, "no encoder 'gru'; choose from lstm, conformer"),
        ({"head": {"kind": "lm"}}, "no head 'lm'; choose from rnnt, ctc"),
        ({"encoder": {"heads": 2}}, "the encoder 'lstm' has no 'heads'; it has size, layers"),
        ({"head": {"kind": "ctc", "size": 2}}, "the head 'ctc' has no 'size'; it has nothing"),
        ({"encoder": {"size": 0}}, "the encoder's size must be from 1 to 65536, not 0"),
        ({"encoder": {"size": 10**30}}, "the encoder's size must be from 1 to 65536, not 1000"),
        ({"encoder": {"dropout": float("nan")}}, "at least 0 and below 1, not nan"),
        ({"encoder": [1]}, "the encoder must be a table, not [1]"),
        ({"head": {"kind": {"kind": "ctc"}}}, "there is no head {'kind': 'ctc'}; choose from"),
        ({"tokens": -1}, "the model's tokens must be a whole number to 65536, not -1"),
        ({"encoder": {"size": 2.5}}, "the encoder's size must be a whole number, not 2.5"),
        ({"encoder": {"layers": True}}, "must be a whole number, not True"),
        ({"encoder": {"dropout": 1}}, "dropout must be at least 0 and below 1, not 1"),
        ({"head": {"dropout": "x"}}, "the head's dropout must be a number, not 'x'"),
        ({"encoder": {"kind": "conformer", "size": 9}}, "cannot be cut into 4 heads"),
    ],
)
def test_odd_settings_are_one_sentence(values, words):
    with pytest.raises(Error) as refusal:
        NetworkSettings.from_dict(values)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def batch(seed: int = 0) -> Batch:
    """Two strings; the second is padded by 5 of its 14 frames and by 1 token."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 14, NetworkSettings().features, generator=generator)
    tokens = torch.tensor([[3, 7, 7, 1], [9, 2, 4, 0]])
    return Batch(features, torch.tensor([14, 9]), tokens, torch.tensor([4, 3]))


@pytest.mark.parametrize("name", ALL)
def test_losses_fall(name):
    torch.manual_seed(0)
    model = build(ALL[name])
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        loss = objective(model, batch(), auxiliary=0.2)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", ["lstm rnnt", "lstm ctc"])
def test_a_text_may_be_empty(name):
    """Noise says nothing: as a batch of its own an utterance counts as one token."""
    torch.manual_seed(0)
    model = build(ALL[name])
    both = batch()
    nothing = replace(both, tokens=both.tokens[:, :0], lengths=torch.tensor([0, 0]))
    loss = objective(model.eval(), nothing, auxiliary=0.5)
    alone = [Batch(*(one[row : row + 1] for one in parts(nothing))) for row in range(2)]
    losses = [objective(model, one, auxiliary=0.5).item() for one in alone]
    assert loss.item() == pytest.approx(sum(losses) / 2, rel=1e-4)
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    one = replace(both, lengths=torch.tensor([4, 0]))
    assert (one.count, both.count) == (5, 7)
    assert torch.isfinite(objective(model, one, auxiliary=0.5))


def parts(of: Batch) -> list[torch.Tensor]:
    return [of.features, of.frames, of.tokens, of.lengths]


FRAMES, TOKENS = (1, slice(9, None)), (1, slice(None), slice(4, None))  # that are padding


@pytest.mark.parametrize(
    ("name", "padding"), [("lstm rnnt", [FRAMES, TOKENS]), ("conformer ctc", [FRAMES])]
)
@torch.no_grad()
def test_divergence_is_a_distance_of_real_scores(name, padding):
    model, other = lively(name), lively(name, seed=2)
    mine, theirs = model.scores(batch()), other.scores(batch())
    assert model.divergence(mine, mine, batch()).item() == pytest.approx(0, abs=1e-6)
    apart = model.divergence(mine, theirs, batch()).item()
    assert apart > 0.1
    for place in padding:
        theirs[0][place] += torch.randn_like(theirs[0][place])
    assert model.divergence(mine, theirs, batch()).item() == apart
    theirs[0][0] += torch.randn_like(theirs[0][0])
    assert model.divergence(mine, theirs, batch()).item() != apart


@pytest.mark.parametrize("name", ["lstm rnnt", "conformer ctc"])
def test_a_teacher_counts_as_much_as_it_is_weighed(name):
    model, teacher = lively(name), lively(name, seed=2)
    alone = objective(model, batch(), 0.3).item()
    assert objective(model, batch(), 0.3, Teacher(model, 1.0)).item() == pytest.approx(alone)
    model.requires_grad_(True)  # it has just been a teacher
    scores = model.scores(batch()), teacher.scores(batch())
    apart = model.divergence(*scores, batch()).item()
    loss = objective(model, batch(), 0.3, Teacher(teacher, 2.0))
    assert loss.item() == pytest.approx(alone + 2 * apart, rel=1e-5)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in model.parameters())
