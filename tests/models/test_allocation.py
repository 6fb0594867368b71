"""Bits within a budget: the knapsack against all combinations, and a small network as a whole."""

from __future__ import annotations

import itertools
import tomllib
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gq_tvm import allocate as command
from gq_tvm import quantize
from gq_tvm.errors import Error
from gq_tvm.models.allocation import allocate as allocation
from gq_tvm.models.allocation import sensitivity
from gq_tvm.models.allocation.sensitivity import Quantised
from gq_tvm.models.allocation.sizes import deployed_bytes
from gq_tvm.models.configuration.config import read
from gq_tvm.models.data.batches import Batch
from gq_tvm.models.networks.conformer import ConformerSettings
from gq_tvm.models.networks.ctc import CTCSettings
from gq_tvm.models.networks.lstm_encoder import LSTMEncoderSettings
from gq_tvm.models.networks.network import NetworkSettings, build
from gq_tvm.models.networks.rnnt import RNNTSettings
from gq_tvm.models.training import checkpoint
from gq_tvm.quantize.allocation.knapsack import RESOLUTION, Choice, choose
from gq_tvm.speech import audio
from gq_tvm.speech.features import FeatureSettings

NETWORKS = {
    "rnnt": NetworkSettings(
        LSTMEncoderSettings(size=12, layers=2),
        RNNTSettings(predictor_size=8, embedding_size=8, joint_size=8),
        features=20,
    ),
    "ctc": NetworkSettings(
        ConformerSettings(size=16, layers=1, heads=2, inner=24, taps=3, context=4),
        CTCSettings(),
        features=20,
    ),
}
GROUP = st.lists(
    st.builds(Choice, st.integers(0, 40), st.integers(0, 30).map(float)), min_size=1, max_size=4
)


@settings(max_examples=80, deadline=None)
@example(groups=[[Choice(22, 0.0)]], budget=22, scale=10**6)  # nothing to spare
@given(st.lists(GROUP, min_size=1, max_size=4), st.integers(-3, 120), st.sampled_from([1, 10**6]))
def test_the_knapsack_is_the_best_of_all_combinations(groups, budget, scale):
    large = [[Choice(one.size * scale, one.cost) for one in group] for group in groups]
    fitting = [
        (sum(one.cost for one in taken), sum(one.size for one in taken))
        for taken in itertools.product(*groups)
        if sum(one.size for one in taken) <= budget
    ]
    chosen = choose(large, budget * scale)
    if not fitting:
        assert chosen is None
        return
    assert chosen is not None
    taken = [group[number] for group, number in zip(groups, chosen, strict=True)]
    found = sum(one.cost for one in taken), sum(one.size for one in taken)
    if scale == 1:
        assert found == min(fitting)
    else:  # of sizes within a step only one is kept
        assert found[1] <= budget
        spare = budget - len(groups) * (-(-budget * scale // RESOLUTION)) / scale
        assert found[0] <= min([one for one in fitting if one[1] <= spare] or [found])[0]


def test_the_knapsack_keeps_little_of_each_step():
    rng = np.random.default_rng(0)
    groups = [[Choice(int(n), 1 / n) for n in rng.integers(1, 100, 4)] for _ in range(100)]
    tracemalloc.start()
    assert choose(groups, 5000) is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6  # 1.7e6; with pointers of 8 bytes each it was 4.1e6


def batch(seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    return Batch(
        torch.randn(3, 9, 20),
        torch.tensor([9, 7, 4]),
        torch.randint(1, 29, (3, 4)),
        torch.tensor([4, 2, 3]),
    )


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("per_row", [False, True])
def test_sensitivity_is_that_of_prepared_networks(kind, per_row):
    torch.manual_seed(1)
    model = build(NETWORKS[kind]).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantised = Quantised(model, [1, 4], per_row)
    for bits in (1, 4):
        uniform = quantised.uniform(bits)
        overrides = {"auxiliary": 32} if kind == "rnnt" else {}
        prepared = build(NETWORKS[kind])
        prepared.load_state_dict(before)
        quantize.prepare(
            prepared, bits, overrides, activation="fp32", per_row=per_row, mu=0.0
        ).eval()
        goal, scores = model.scores(batch()), prepared.scores(batch())
        expected = float(model.divergence(scores, goal, batch()))
        assert quantised.divergences([uniform], batch()) == pytest.approx([expected], rel=1e-4)
        assert quantised.size(uniform) == deployed_bytes(prepared)
    kept: list = [code for codes in quantised._codes.values() for code in codes.values()]
    weights = sum(before[name].numel() for name in quantised.sizes)
    assert sum(code.indices.numel() for code in kept) == 2 * weights
    assert all(code.codebook.shape[1] in (2, 16) for code in kept)
    assert not any(code.codebook.requires_grad or code.scale.requires_grad for code in kept)
    measured = sensitivity.measure(quantised, [batch(), batch(1)], lambda line: None)
    assert all(own[4] < own[1] for own in measured.divergence.values())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    names = {name for name in measured.sizes if "weight_ih" in name or "weight_hh" in name}
    assert len(names) == (6 if kind == "rnnt" else 0)


def test_a_proposal_fits_and_beats_the_uniform_width_in_sum():
    torch.manual_seed(1)
    quantised = Quantised(build(NETWORKS["rnnt"]), [1, 2, 3, 4, 8])
    batches = [batch(n) for n in range(3)]
    measured = sensitivity.measure(quantised, batches, lambda line: None)
    budget = quantised.size(quantised.uniform(3))
    found = allocation.propose(quantised, measured, budget, batches, lambda line: None)
    assert found.size <= budget
    assert found.size == quantised.size(found.bits)
    assert found.uniform == 3
    assert found.sum < sum(own[3] for own in measured.divergence.values())
    assert len(set(found.bits.values())) > 1
    again = quantised.mean_divergences([found.bits], batches, lambda line: None)
    assert again == pytest.approx([found.measured])

    least = quantised.size(quantised.uniform(1))
    assert set(allocation.allocate(measured, least).values()) == {1}
    assert set(allocation.allocate(measured, 10**6).values()) == {8}
    with pytest.raises(Error, match=rf"{least - 1} bytes cannot be met: .* need {least}"):
        allocation.allocate(measured, least - 1)


CONFIG = """
output = "digits"
[model.encoder]
size = 12
layers = 1
[model.head]
predictor_size = 8
embedding_size = 8
joint_size = 8
[[corpus]]
kind = "manifest"
file = "all.jsonl"
[[corpus]]
role = "development"
kind = "manifest"
file = "all.jsonl"
"""


@pytest.fixture
def trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = torch.Generator().manual_seed(0)
    lines = []
    for number in range(3):
        samples = torch.randn(4000, generator=rng).numpy() * 0.1
        audio.write(tmp_path / f"{number}.wav", samples, 8000)
        lines.append(f'{{"path": "{number}.wav", "text": "one"}}\n')
    (tmp_path / "all.jsonl").write_text("".join(lines))
    (tmp_path / "small.toml").write_text(CONFIG)
    config = read("small.toml")
    torch.manual_seed(0)
    tensors = {f"model.{k}": v for k, v in build(config.network).state_dict().items()}
    features = FeatureSettings(mean=(-5.0,) * 40, deviation=(1.0,) * 40)
    description = {
        "model": config.network.to_dict(),
        "features": features.to_dict(),
        "configuration": config.decisive("fp32"),
        "phase": "fp32",
    }
    checkpoint.save("a.safetensors", tensors, {**description, "step": 3000})
    checkpoint.save("half.safetensors", tensors, {**description, "step": 1500})
    return tmp_path


def test_the_command_writes_what_training_reads(trained, capsys):
    given = ["a.safetensors", "--config", "small.toml"]
    output = ["--choices", "2,4,8", "-o", "bits.toml"]
    assert command.main([*given, "--budget", "8.3KB", *output]) == 0
    printed = capsys.readouterr().out
    assert "uniform" in printed
    overrides = tomllib.loads((trained / "bits.toml").read_text())["quantise"]["overrides"]
    assert set(overrides.values()) <= {2, 4, 8}
    assert "encoder.lstm.0.weight_hh_l0" in overrides
    change = ["quantise.allocation=bits.toml", "quantise.overrides={'joint' = 1}"]
    options = read("small.toml", change).quantise.options
    assert options["overrides"] == {"joint": 1, **overrides}
    model = quantize.prepare(build(read("small.toml").network), **options)
    bits = {one.name: one.bits for one in quantize.describe(model)}
    assert {name: bits[name] for name in overrides} == overrides

    assert command.main([*given, "--budget", "1MB"]) == 0
    assert "every weight has 8 bits, the most there was" in capsys.readouterr().out


def test_half_trained_weights_are_refused(trained, capsys):
    given = ["half.safetensors", "--config", "small.toml", "--budget", "9KB"]
    assert command.main(given) == 2
    assert "half.safetensors was stopped at step 1500 of 3000; finish" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--budget", "1KB"], "cannot be met"),
        (["--budget", "much"], "no size"),
        (["--budget", "9KB", "--choices", "4,9"], "no bits"),
        (["--budget", "9KB", "-o", "none/bits.toml"], "choose another file"),
        (["--budget", "9KB", "--set", "model.encoder.size=8"], "another model"),
        (["--budget", "9KB", "--set", "corpus.1.role=test"], 'role = "development"; add one'),
        (["--budget", "9KB", "--set", "quantise.allocation=none"], "no such file"),
    ],
)
def test_the_command_refuses_in_a_sentence(trained, capsys, options, words):
    given = ["a.safetensors", "--config", "small.toml", "--choices", "1,8"]
    assert command.main([*given, *options]) == 2
    error = capsys.readouterr().err
    assert words in error.splitlines()[-1]
    assert "error: " in error.splitlines()[-1]
