"""``compress`` with inputs: each weight is fitted to what reaches it."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gq_tvm.quantize
from gq_tvm.errors import Error
from gq_tvm.quantize.calibration import calibrate, sequences
from gq_tvm.quantize.calibration.moments import Moments
from gq_tvm.quantize.calibration.sequences import Sequences
from gq_tvm.quantize.deployed.codebook_layers import CodebookLayer

quantize: Any = gq_tvm.quantize

pytestmark = pytest.mark.filterwarnings(
    "ignore:compress. fewer rows than inputs:UserWarning",
    "ignore:compress. .* of their signal:UserWarning",
)


def lattice(model: nn.Module) -> nn.Module:
    """The model with weights of so few values that 8 bits hold them exactly."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randint(-6, 7, parameter.shape) / 16
    return model.eval()


@pytest.fixture
def fitted(monkeypatch):
    """What ``fit`` was given, in order: the weight [N, K], moments and importances of rows."""
    calls: list[tuple[Tensor, Tensor | None, Tensor | None]] = []
    fit = calibrate.fit

    def noting(weight, form, moments=None, rows=None):
        calls.append((weight, None if moments is None else moments.clone(), rows))
        return fit(weight, form, moments, rows)

    monkeypatch.setattr(calibrate, "fit", noting)
    # As they are collected: without what is left to a bias, or taken for chance.
    monkeypatch.setattr(calibrate.Calibration, "_bias", lambda self, quantizer: None)
    monkeypatch.setattr(Moments, "_chance", lambda self, covariance: 0.0)
    return calls


def exactly(model: nn.Module, inputs: Any, fitted: list) -> None:
    """Compress the model without a loss, to see what ``fit`` was given."""
    lattice(model)
    quantize.compress(model, 8, activation="fp32", scales="tensor", inputs=inputs, progress=None)
    for weight, _, _ in fitted:
        assert len(weight.unique()) <= 13


def square(*rows: Tensor) -> Tensor:
    flat = torch.cat([one.reshape(-1, one.shape[-1]) for one in rows])
    return flat.T @ flat


def close(got: Tensor | None, wanted: Tensor) -> None:
    assert got is not None
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)


def moments_of(*rows: Tensor) -> Moments:
    moments = Moments(rows[0].shape[-1])
    for one in rows:
        moments.add(one)
    return moments


def test_moments_far_from_zero_do_not_cancel():
    x = 1000 + torch.randn(3000, 6)
    wanted = 3000 * torch.cov(x.T.double(), correction=0)
    got = moments_of(*x.split(700)).square(central=True).double()
    torch.testing.assert_close(got.diagonal(), wanted.diagonal(), rtol=1e-3, atol=0.0)


def test_many_rows_are_believed_and_few_are_not():
    mixed = torch.randn(32, 32)
    wanted = mixed.T @ mixed

    def missed(rows: int) -> tuple[float, float]:
        x = torch.randn(rows, 32) @ mixed
        got = moments_of(x).square() / rows
        plain = x.T @ x / rows
        return float((got - wanted).square().sum()), float((plain - wanted).square().sum())

    few, plain = missed(16)
    assert few < 0.8 * plain
    many, plain = missed(20_000)
    assert many == pytest.approx(plain, rel=0.1)


def test_rows_that_share_nothing_are_taken_apart():
    x = torch.randn(20, 64)
    found = moments_of(x).square(central=True)
    apart = found - torch.diag(found.diagonal())
    assert apart.square().sum() < 0.2 * (20 * torch.cov(x.T)).fill_diagonal_(0).square().sum()


def test_the_mean_is_left_to_the_bias_where_there_is_one(monkeypatch):
    given, fit = [], calibrate.fit

    def noting(weight, form, moments, rows):
        given.append(moments)
        return fit(weight, form, moments, rows)

    monkeypatch.setattr(calibrate, "fit", noting)
    x = 5 + torch.randn(500, 4)
    for bias in (True, False):
        model = nn.Sequential(nn.Linear(4, 3, bias=bias))
        quantize.compress(model, 4, activation="fp32", inputs=[x], progress=None)
    trace = [float(one.diagonal().mean()) / 500 for one in given]
    assert trace[0] < 1.5 < 20 < trace[1]


def test_moments_of_a_linear_layer(fitted):
    x = torch.randn(3, 7, 5)
    exactly(nn.Sequential(nn.Linear(5, 4)), list(x), fitted)
    close(fitted[0][1], square(x))


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2}])
def test_moments_of_a_convolution_are_of_its_windows_channel_major(fitted, options):
    conv = nn.Conv1d(3, 4, 3, **options)
    x = torch.randn(2, 3, 11)
    exactly(nn.Sequential(conv), [x], fitted)
    padded = F.pad(x, (options.get("padding", 0),) * 2)
    step, apart = conv.stride[0], conv.dilation[0]
    windows = [
        padded[:, :, t : t + 2 * apart + 1 : apart].flatten(1)
        for t in range(0, padded.shape[2] - 2 * apart, step)
    ]
    close(fitted[0][1], square(*windows))


def test_moments_of_a_convolution_in_groups_are_summed_and_its_rows_weighed(fitted):
    x = torch.randn(2, 4, 9) * torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None]
    exactly(nn.Sequential(nn.Conv1d(4, 8, 3, groups=2)), [x], fitted)
    windows = x.unfold(2, 3, 1).permute(0, 2, 1, 3)  # [B, T', C, k]
    parts = [windows[:, :, c : c + 2].flatten(2) for c in (0, 2)]
    close(fitted[0][1], square(*parts))
    powers = torch.tensor([float(part.square().sum()) for part in parts]).repeat_interleave(4)
    close(fitted[0][2], powers.double())


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_moments_of_recurrent_layers_are_over_time_from_the_state_given(fitted, kind, batch_first):
    layer = kind(3, 4, 2, batch_first=batch_first)
    lattice(layer)
    x = torch.randn(2, 6, 3) if batch_first else torch.randn(6, 2, 3)
    h, c = torch.randn(2, 2, 4), torch.randn(2, 2, 4)
    state = (h, c) if kind is nn.LSTM else h

    exactly(layer, [(x, state)], fitted)

    one = kind(3, 4, batch_first=batch_first)  # the first layer alone
    for name, parameter in one.named_parameters():
        parameter.data = getattr(layer, name).data
    first = tuple(part[:1] for part in state) if kind is nn.LSTM else h[:1]
    time = 1 if batch_first else 0
    with torch.no_grad():
        below, _ = one(x, first)
        y, _ = layer(x, state)

    def before(y: Tensor, number: int) -> Tensor:
        starts = h[number].unsqueeze(time)
        return torch.cat([starts, y.narrow(time, 0, y.shape[time] - 1)], time)

    wanted = [square(x), square(before(below, 0)), square(below), square(before(y, 1))]
    for (_, moments, _), expected in zip(fitted, wanted, strict=True):
        close(moments, expected)


def test_moments_of_attention_are_of_query_key_and_value_and_of_the_heads(fitted):
    layer = nn.MultiheadAttention(4, 2, batch_first=True)
    x, y = torch.randn(2, 5, 4), torch.randn(2, 6, 4)
    exactly(layer, [(x, y, y)], fitted)
    close(fitted[0][1], square(x, y))  # key and value are one tensor: it counts once
    assert fitted[1][0].shape == (4, 4)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        weight = self.embedding.weight
        return self.embedding(ids), self.head(x), F.linear(2 * x, weight), (4 * x) @ weight.T


def test_an_embedding_counts_its_rows(fitted):
    ids = torch.tensor([[1, 1, 4], [1, 2, 8]])
    exactly(nn.Sequential(nn.Embedding(9, 4)), [(ids,)], fitted)
    assert fitted[0][1] is None
    assert fitted[0][2].tolist() == [0, 3, 1, 0, 1, 0, 0, 0, 1]


def test_a_shared_weight_sums_all_its_uses_even_those_past_the_layer(fitted):
    x = torch.randn(5, 4)
    exactly(Tied(), [(torch.tensor([1, 1, 3]), x)], fitted)
    assert len(fitted) == 1
    close(fitted[0][1], square(x, 2 * x, 4 * x) + torch.eye(4) * 3 / 9)


def chain(*sizes: int) -> nn.Sequential:
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for one, after in pairwise(sizes):
        layers += [nn.Linear(one, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_a_layer_is_fitted_to_what_reaches_it_behind_compressed_ones(fitted):
    model, inputs = chain(8, 12, 10, 6), list(torch.randn(4, 30, 8))
    compressed = quantize.compress(model, 2, inputs=inputs, progress=None)
    reached: list[Tensor] = []
    compressed[4].register_forward_pre_hook(lambda layer, args: reached.append(args[0]))
    for x in inputs:
        compressed(x)
    rows = torch.cat(reached)
    step = rows.abs().amax(-1, keepdim=True) / 127
    close(fitted[2][1], square((rows / step).round() * step))  # int8 activations, rounded


def test_the_bias_makes_up_for_the_mean():
    model, x = chain(8, 6), torch.randn(200, 8) + 1
    compressed = quantize.compress(model, 2, activation="fp32", inputs=[x], progress=None)
    with torch.no_grad():
        close(compressed(x).mean(0), model(x).mean(0))


def test_weights_that_meet_one_input_are_fitted_from_one_run_to_one_matrix(fitted):
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.two(x)

    model = Heads()
    ran: list[nn.Module] = []

    def run(model: nn.Module) -> None:
        ran.append(model)
        model(torch.randn(9, 6))

    compressed = quantize.compress(model, 4, inputs=run, tune=0, progress=None)
    close(fitted[0][1], fitted[1][1])
    # The survey, the one group, and the float and the compressed model compared.
    assert len(ran) == 4
    assert compressed is not model


@pytest.mark.parametrize(("runs", "most"), [(100, 1), (1, 3)])
def test_moments_alive_are_those_of_a_group(monkeypatch, runs, most):
    alive: weakref.WeakSet = weakref.WeakSet()
    peak = 0

    class Counted(calibrate.Moments):
        def __init__(self, width: int) -> None:
            nonlocal peak
            super().__init__(width)
            gc.collect()
            alive.add(self)
            peak = max(peak, len(alive))

    monkeypatch.setattr(calibrate, "Moments", Counted)
    monkeypatch.setattr(calibrate, "_MOST_WORK", 0.0)
    monkeypatch.setattr(calibrate, "_FEWEST_RUNS", runs)
    monkeypatch.setattr(calibrate, "_MOST_BYTES", 3 * 4 * 8 * 8)
    quantize.compress(chain(8, 8, 8, 8, 8, 8), 4, inputs=[torch.randn(20, 8)], progress=None)
    assert peak == most


def test_a_function_carries_a_state_from_call_to_call(fitted):
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
            return self.lstm(x, state)

    x = torch.randn(1, 12, 3)

    def stream(model: nn.Module) -> None:
        state = (torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
        for frame in x.split(1, 1):
            _, state = model(frame, state)

    model = Cell()
    exactly(model, stream, fitted)
    with torch.no_grad():
        y, _ = model.lstm(x)
    close(fitted[1][1], square(y[:, :-1]))  # and zeros at first


def test_inputs_may_come_from_a_generator():
    x = list(torch.randn(3, 20, 8))
    one, two = (
        quantize.compress(chain(8, 6, 4), 3, inputs=given, progress=None)
        for given in (iter(x), [(part,) for part in x])
    )
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key])


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor, spare: bool = False) -> Tensor:
        return (self.spare if spare else self.used)(x)


def test_a_layer_no_input_reaches_is_named_and_compressed_without():
    model = Branches()
    with pytest.warns(UserWarning, match="compress: no input reaches spare.weight"):
        compressed = quantize.compress(model, 4, inputs=[torch.randn(40, 6)], progress=None)
    plain = quantize.compress(model, 4)
    assert torch.equal(compressed.spare.indices, plain.spare.indices)
    quantize.compress(
        model, 4, inputs=[{"x": torch.randn(40, 6), "spare": s} for s in (True, False)],
        progress=None,
    )  # fmt: skip


@pytest.mark.filterwarnings("default:compress. fewer rows")
def test_few_rows_are_named():
    with pytest.warns(UserWarning, match=r"inputs reach 0.weight \(5 rows, 8 inputs\)"):
        quantize.compress(chain(8, 4), 4, inputs=[torch.randn(5, 8)], progress=None)


def nan_at(number: int) -> list[Tensor]:
    inputs = list(torch.randn(3, 5, 8))
    inputs[number][0, 0] = torch.nan
    return inputs


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "^compress: inputs hold no example; give some, or leave inputs out."),
        (torch.randn(5, 8), "got Tensor; put a single example in a list."),
        (3, "each a tuple of arguments, or a function that is given the model, got int."),
        (["x"], r"^compress: inputs\[0\] is str; an example is"),
        ([torch.randn(5, 8), torch.randn(5, 7)], r"inputs\[1\] does not fit the model: Runtime"),
        ([(torch.randn(5, 8), 1)], r"inputs\[0\] does not fit the model: TypeError"),
        (nan_at(1), r"^compress: inputs\[1\]: argument 0 holds NaN; leave that example out."),
        ([torch.full((5, 8), torch.inf)], r"inputs\[0\] bring NaN or infinity to 0.weight;"),
        (lambda m: m(torch.randn(5, 9)), "the function given as inputs fails: RuntimeError"),
    ],
)  # fmt: skip
def test_inputs_that_serve_nothing_are_refused_in_a_sentence(inputs, message):
    with pytest.raises(Error, match=message):
        quantize.compress(chain(8, 4), 4, inputs=inputs, progress=None)


def test_what_is_done_before_an_interrupt_is_kept():
    model, inputs = chain(8, 12, 10, 6), [torch.randn(60, 8)]
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            raise KeyboardInterrupt

    with pytest.raises(quantize.Interrupted) as stopped:
        quantize.compress(model, 3, inputs=inputs, progress=stop)
    assert (stopped.value.done, stopped.value.total) == (2, 3)
    assert lines[1].startswith("layer 2 of 3, 2.weight: ")
    kept = stopped.value.model()
    whole = quantize.compress(model, 3, inputs=inputs, tune=0, progress=None)
    for number in (0, 2):
        assert torch.equal(kept[number].indices, whole[number].indices)
        assert torch.equal(kept[number].bias, whole[number].bias)
    assert isinstance(kept[4], CodebookLayer)


def test_an_interrupt_before_anything_is_done_is_one():
    def stop(model: nn.Module) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        quantize.compress(chain(8, 4), 3, inputs=stop, progress=None)
    assert not isinstance(stopped.value, quantize.Interrupted)


def test_the_model_given_stays_as_it_was():
    model = chain(8, 6, 4).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantize.compress(model, 2, inputs=[torch.randn(30, 8)], progress=None)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_inputs_help():
    model = chain(16, 32, 32, 8)
    x = torch.randn(600, 16) @ torch.diag(torch.logspace(-1, 1, 16)) + 0.3
    lost = [
        quantize.losses(
            model, quantize.compress(model, 3, inputs=given, progress=None), [x[300:]]
        ).outputs[0].lost
        for given in (None, [x[:300]])
    ]  # fmt: skip
    assert lost[1] < 0.5 * lost[0]


class Uneven(nn.Module):
    """Inputs of unlike size before weights that make up for it."""

    layer: Any

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.sizes = torch.logspace(0, -4, 16)
        self.layer = {
            "linear": nn.Linear(16, 8),
            "conv": nn.Conv1d(16, 8, 3, padding=1),
            "lstm": nn.LSTM(16, 8, batch_first=True),
            "gru": nn.GRU(16, 8, batch_first=True),
        }[kind]
        weight = self.layer.weight if kind in ("linear", "conv") else self.layer.weight_ih_l0
        weight.data /= self.sizes[:, None] if kind == "conv" else self.sizes

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.sizes
        if isinstance(self.layer, nn.Conv1d):
            return self.layer(x.transpose(1, 2))
        y = self.layer(x)
        return y if isinstance(y, Tensor) else y[0]


@pytest.mark.parametrize("kind", ["linear", "conv", "lstm", "gru"])
def test_inputs_of_unlike_size_have_factors_in_front(kind):
    model, x = Uneven(kind), torch.randn(4, 50, 16)
    small = quantize.compress(model, 8, inputs=list(x[:2].split(1)), progress=None)
    scale = small.layer.input_scale
    assert scale.shape == (16,)
    assert torch.equal(scale.log2(), scale.log2().round())
    name, first = next(small.layer.codebook_weights())
    described = next(w for w in quantize.describe(small) if w.name == f"layer.{name}")
    assert described.size == first.packed_bytes("int8") + 4 * 16
    lost = quantize.losses(model, small, [x[2:]])
    assert lost.outputs[0].lost < 2e-3
    plain = quantize.compress(model, 8, progress=None)
    assert quantize.losses(model, plain, [x[2:]]).outputs[0].lost > 20 * lost.outputs[0].lost
    name = "weight" if kind in ("linear", "conv") else "weight_ih_l0"
    float_weight, read = getattr(model.layer, name), getattr(small.layer, name)
    torch.testing.assert_close(read, float_weight, rtol=0.1, atol=0.1 * float(read.abs().max()))


def test_even_inputs_have_no_factors():
    small = quantize.compress(chain(8, 6, 4), 4, inputs=[torch.randn(60, 8)], progress=None)
    assert not any("input_scale" in name for name in small.state_dict())


def _prepared(kind: type[nn.LSTM | nn.GRU]) -> Any:
    torch.manual_seed(0)
    return quantize.prepare(nn.Sequential(kind(6, 8, batch_first=True)), 8)[0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_costs_foretell_what_errors_of_a_recurrent_layers_inputs_lose(kind):
    layer, x = _prepared(kind), torch.randn(8, 30, 6)
    state = (torch.zeros(8, 8),) * (2 if kind is nn.LSTM else 1)
    kept = Sequences(layer, "_l0")
    kept.add(x, state)
    found = kept.costs()
    rows, costs = found.rows, found.inputs
    assert torch.equal(rows, x.flatten(0, 1))
    errors = 1e-3 * torch.randn(x.shape) * torch.logspace(-1, 1, 30)[:, None]
    foretold = float((errors.flatten(0, 1).square() * costs).sum())
    twin = kind(6, 8, batch_first=True)
    twin.load_state_dict({n: p for n, p in layer.named_parameters() if "quantizers" not in n})
    with torch.no_grad():
        y, off = twin(x)[0], twin(x + errors)[0]
    lost = float((off - y).square().sum() / (y - y.mean((0, 1))).square().sum())
    assert lost / 1.7 < foretold < lost * 1.7


def test_errors_behind_a_closed_gate_cost_nothing():
    layer = _prepared(nn.LSTM)
    layer.bias_ih_l0.data[:8] = -200.0
    kept = Sequences(layer, "_l0")
    kept.add(torch.randn(2, 10, 6), (torch.zeros(2, 8), torch.zeros(2, 8)))
    assert not kept.costs().inputs.any()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_rows_of_recurrent_weights_count_by_what_errors_in_them_cost_over_time(kind):
    layer, x = _prepared(kind), torch.randn(32, 30, 6)
    layer.bias_ih_l0.data[:4] -= 4.0  # gates that are nearly closed
    kept = Sequences(layer, "_l0")
    kept.add(x, (torch.zeros(32, 8),) * (2 if kind is nn.LSTM else 1))
    costs = kept.costs().weights
    twin = kind(6, 8, batch_first=True)
    twin.load_state_dict({n: p for n, p in layer.named_parameters() if "quantizers" not in n})
    y = twin(x)[0].detach()
    for name, cost in zip(("weight_ih_l0", "weight_hh_l0"), costs, strict=True):
        weight, lost = getattr(twin, name), []
        for row in range(len(weight)):
            found = torch.zeros(())
            for one in 1e-3 * torch.randn(8, weight.shape[1]):
                weight.data[row] += one
                found = found + (twin(x)[0].detach() - y).square().sum()
                weight.data[row] -= one
            lost.append(found)
        together = torch.corrcoef(torch.stack([cost.log(), torch.stack(lost).log()]))
        assert together[0, 1] > 0.8


def test_of_many_sequences_some_are_kept_evenly(monkeypatch):
    monkeypatch.setattr(sequences, "_MOST_FRAMES", 20)
    kept = Sequences(_prepared(nn.GRU), "_l0")
    for number in range(16):
        kept.add(torch.full((1, 5, 6), float(number)), (torch.zeros(1, 8),))
    rows = kept.costs().rows
    assert rows[::5, 0].tolist() == [0.0, 4.0, 8.0, 12.0]
