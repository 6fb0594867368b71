"""Put quantisers before the weights of a model."""

from __future__ import annotations

import difflib
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from gq_tvm.errors import Error
from gq_tvm.ops.checks import check_activation
from gq_tvm.quantize.drop_in.arguments import check_flags, check_numbers, check_patterns
from gq_tvm.quantize.drop_in.computed_weights import fold
from gq_tvm.quantize.drop_in.copying import check_is_model
from gq_tvm.quantize.drop_in.replacement import Replacement, become
from gq_tvm.quantize.drop_in.supported import (
    KINDS,
    WeightPlace,
    find_weights,
    layer_kind,
    why_none,
)
from gq_tvm.quantize.quantisers.gq import GQ, MU, STARTS
from gq_tvm.quantize.quantisers.quantizer import Quantizer, check_finite
from gq_tvm.quantize.quantisers.uniform import LearnedStep, Uniform
from gq_tvm.quantize.training_layers.quant_layers import QuantLayer
from gq_tvm.quantize.training_layers.quant_recurrent import QuantRecurrent

METHODS: dict[str, Callable[..., Quantizer]] = {"gq": GQ, "int8": Uniform, "lsq": LearnedStep}
# What each method has, of the options that not all have, with the values that leave it unsaid.
_OPTIONS: dict[str, tuple[str, ...]] = {
    "gq": ("mu", "learn_mu", "learn_centroids", "start", "int8_grid"),
    "lsq": ("int8_grid",),
    "int8": (),
}
_UNSAID = {"mu": MU, "learn_mu": False, "learn_centroids": True, "start": STARTS[0]}
_MOST_NAMED = 8  # of the weights a warning is of


def prepare(
    model: nn.Module,
    bits: int | None = 4,
    overrides: Mapping[str, int | None] | None = None,
    activation: str | Mapping[str, str] = "int8",
    *,
    method: str = "gq",
    per_row: bool = False,
    mu: float = MU,
    exact_state: bool = False,
    learn_mu: bool = False,
    learn_centroids: bool = True,
    start: str = "lloyd-max",
    int8_grid: bool | None = None,
) -> nn.Module:
    """Make a model train with quantised weights.

    Every ``nn.Linear``, ``nn.Conv1d``, ``nn.Conv2d``, ``nn.Embedding``, ``nn.EmbeddingBag``,
    ``nn.MultiheadAttention``, ``nn.LSTM``, ``nn.GRU``, ``nn.RNN`` and their cells (transformers'
    ``Conv1D`` is a linear layer, ``nn.ConvTranspose1d`` a convolution) becomes its counterpart with
    quantisers, in place: an optimiser made before still holds the weights, but not the centroids
    (see ``centroid_parameters``). Weights that cannot be quantised stay in float,
    with a warning that names them, but for those that ``overrides`` leave in float anyway;
    ``describe`` says why. Weights that a norm, pruning or another parametrisation computes become
    plain ones, with a warning. Until an ``Annealing`` is made, the quantisers are hard. Code that
    reads the ``weight`` of a layer itself has the float one in training, and the looked-up one
    after ``convert``. A saved ``state_dict`` belongs in a model prepared with the same options.
    That bits may differ from layer to layer is [P]; defaults, activations and names are ours [C].

    Args:
        model: with trained or fresh float32 weights; centroids start from them.
        bits: 1 to 8 for every weight; None or 32 leaves a weight in float.
        overrides: bits by pattern (``fnmatch``) of a parameter's or module's name, such as
            ``{"encoder.lstm.*": 2, "joint": 8}``; a module's name covers all inside it, and the
            last pattern that matches counts. Layers of an LSTM or GRU may be left in float, both
            weights together: ``{"lstm.weight_*_l0": None}``.
        activation: ``"int8"``, ``"int2"`` or ``"int1"`` (dynamic, per row; meanings in
            ``ops.reference``) or ``"fp32"``; or kinds by pattern as in ``overrides``, such as
            ``{"*": "int8", "encoder.lstm": "int1"}``, ``"int8"`` where none matches. Layers of an
            LSTM or GRU may differ, both weights of one together:
            ``{"lstm.weight_*_l0": "fp32"}``. Embeddings, and convolutions of fewer than 16
            outputs a group, always have ``"fp32"``.
        method: ``"gq"``, or one of the baselines ``"int8"`` (uniform, 8 bits) and ``"lsq"``.
        per_row: a codebook scale for each output row in place of one for the tensor.
        mu: of GQ's mu-law; 0 is the linear space.
        exact_state: once hard, round the state of an LSTM or GRU at each step of training too
            (slower).
        learn_mu: GQ's mu is a parameter of each weight that starts at ``mu``.
        learn_centroids: False leaves GQ's centroids where they start.
        start: of GQ's centroids, ``"lloyd-max"`` of the weight or ``"uniform"``: the midpoints of
            equal cells of the compressed space.
        int8_grid: whether hard centroids lie on an int8 grid, for GQ and LSQ; None: where the
            activations are integers, whose kernels have no other centroids.

    Returns:
        The same model.

    Raises:
        Error: a pattern matches nothing, bits or options are out of range, a weight is not
            finite, one of the two weights of a layer of an LSTM or GRU would stay in float, a
            layer would have two kinds of activations, nothing can be quantised, or an option is
            given that the method does not have.
    """
    options: dict[str, Any] = {
        "mu": mu, "learn_mu": learn_mu, "learn_centroids": learn_centroids, "start": start,
    }  # fmt: skip
    check_flags("prepare", per_row=per_row, exact_state=exact_state)
    _check_method_options(method, options | {"int8_grid": int8_grid})
    own = {name: value for name, value in options.items() if name in _OPTIONS[method]}

    def quantizer(weight: Tensor, bits: int, on_grid: bool) -> Quantizer:
        if method == "int8" and bits != 8:
            raise Error('prepare: method "int8" has 8 bits only; give bits=8.')
        forced = on_grid if int8_grid is None else int8_grid
        return METHODS[method](weight, bits, forced, per_row, **own)

    attach(model, bits, overrides, activation, quantizer)
    for module in model.modules():
        if isinstance(module, QuantRecurrent):
            module.exact_state = exact_state
    return model


def attach(
    model: nn.Module,
    bits: int | None,
    overrides: Mapping[str, int | None] | None,
    activation: str | Mapping[str, str],
    quantizer: Callable[[Tensor, int, bool], Quantizer],
) -> None:
    """Put before each weight what ``quantizer`` makes of it, its bits and whether on int8 grids.

    The other arguments, and errors, are those of ``prepare``.
    """
    default, patterns = "int8", activation
    if not isinstance(patterns, Mapping):
        default, patterns = patterns, {}
    _check_options(model, overrides, default, patterns)
    weights = find_weights(model)
    chosen = _choose_bits(weights, bits, overrides or {})
    _check_pairs(weights, chosen)
    kinds = _choose_activations(weights, chosen, default, patterns)
    if not kinds:
        raise Error(f"prepare: the model has no weight to quantise: {why_none(model, weights)}.")
    quantizers: dict[int, Quantizer] = {}
    for w in kinds:
        if id(w.parameter) in quantizers:
            continue  # shared: one quantiser for all holders
        check_finite(w.name, w.parameter)
        holders = [kind for v, kind in kinds.items() if v.parameter is w.parameter]
        quantizers[id(w.parameter)] = quantizer(
            w.parameter, chosen[id(w.parameter)], set(holders) != {"fp32"}
        )
    layers: dict[nn.Module, list[WeightPlace]] = defaultdict(list)
    for w in kinds:
        layers[w.module].append(w)
        if isinstance(w.whole, nn.MultiheadAttention) and not isinstance(w.whole, Replacement):
            layers[w.whole]  # PyTorch's reads the weights of the layers inside it
    names = {module: name for name, module in model.named_modules()}
    folded = []
    for module, held in layers.items():
        inside = f"{names[module]}." if names[module] else ""
        folded += [f"{inside}{attribute} ({by})" for attribute, by in fold(module).items()]
        become(module, KINDS[layer_kind(module) or type(module)])
        assert isinstance(module, QuantLayer)
        module.attach(
            {w.attribute: quantizers[id(w.parameter)] for w in held},
            {w.attribute: kinds[w] for w in held},
        )
    _read_no_weights_directly(model)
    if folded:
        warnings.warn(
            f"weights that are computed become plain ones, as they are now: {listed(folded)}; an "
            "optimiser made before does not hold them.",
            stacklevel=3,
        )
    if bits not in (None, 32):
        _say_what_is_left(weights, overrides or {})


def listed(names: list[str]) -> str:
    """Names in a sentence, the first of many."""
    return ", ".join(names[:_MOST_NAMED]) + ", ..." * (len(names) > _MOST_NAMED)


def _say_what_is_left(weights: list[WeightPlace], overrides: Mapping[str, int | None]) -> None:
    asked = {
        w
        for p, bits in overrides.items()
        if bits in (None, 32)
        for w in matched_weights(p, weights)
    }
    left = [f"{w.name} ({w.obstacle})" for w in weights if w.obstacle and w not in asked]
    if left:
        warnings.warn(f"left in float: {listed(left)}.", stacklevel=4)


def _read_no_weights_directly(model: nn.Module) -> None:
    """Keep PyTorch's transformer from its fast path, which passes over the layers inside it."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def centroid_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What the quantisers of a prepared model learn, each once: centroids, steps, and mu.

    An optimiser made before ``prepare`` needs these added. Weight decay should spare them, and
    gradients are best clipped apart from the weights': a centroid's is a sum over all weights it
    holds, several times as large at one and two bits.
    """
    quantizers = [m for m in model.modules() if isinstance(m, Quantizer)]
    return list({id(p): p for q in quantizers for p in q.parameters()}.values())


def _check_options(model: nn.Module, overrides: Any, default: Any, patterns: Any) -> None:
    check_is_model("prepare", model)
    check_patterns("prepare", overrides=overrides or {}, activation=patterns)
    for activation in (default, *patterns.values()):
        check_activation("prepare", activation)
    if any(isinstance(m, QuantLayer) for m in model.modules()):
        raise Error("prepare: the model is prepared already; start from a float model.")


def _check_method_options(method: str, options: Mapping[str, Any]) -> None:
    if method not in tuple(METHODS):
        raise Error(f"prepare: method must be one of {', '.join(METHODS)}, got {method!r}.")
    flags = ("learn_mu", "learn_centroids", *["int8_grid"] * (options["int8_grid"] is not None))
    check_flags("prepare", **{name: options[name] for name in flags})
    check_numbers("prepare", mu=options["mu"])
    for name, value in options.items():
        if name not in _OPTIONS[method] and value != _UNSAID.get(name):
            raise Error(f'prepare: method "{method}" has no {name}; leave it out.')
    mu, start = options["mu"], options["start"]
    if not 0 <= mu < math.inf:
        raise Error(f"prepare: mu must be 0 or more, got {mu}.")
    if options["learn_mu"] and mu == 0:
        raise Error("prepare: learn_mu needs a mu above 0 to start from; 0 is the linear space.")
    if start not in STARTS:
        raise Error(f"prepare: start must be one of {', '.join(STARTS)}, got {start!r}.")


def _choose_bits(
    weights: list[WeightPlace], default: int | None, overrides: Mapping[str, int | None]
) -> dict[int, int]:
    """Bits by id of the parameter; parameters left in float are absent."""
    for pattern, bits in {"bits": default, **overrides}.items():
        if bits not in (None, 32) and (type(bits) is not int or not 1 <= bits <= 8):
            where = f"{pattern}: " * (pattern != "bits")
            raise Error(f"prepare: {where}bits must be 1 to 8, None or 32, got {bits!r}.")
    explicit: dict[int, dict[str, int | None]] = defaultdict(dict)
    for pattern, bits in overrides.items():
        matched = matched_weights(pattern, weights)
        if bits not in (None, 32):
            _check_quantisable(pattern, matched)
        for w in matched:
            explicit[id(w.parameter)][w.name] = None if bits == 32 else bits
    chosen = {}
    for w in weights:
        given = explicit.get(id(w.parameter), {})
        if len(set(given.values())) > 1:
            listed = " and ".join(f"{name} ({b} bits)" for name, b in given.items())
            raise Error(f"prepare: {listed} are one shared weight; give both the same bits.")
        bits = next(iter(given.values()), default)
        if w.obstacle is None and bits is not None and bits != 32:
            chosen[id(w.parameter)] = bits
    return chosen


def matched_weights(pattern: str, weights: list[WeightPlace]) -> list[WeightPlace]:
    """The weights a pattern names, themselves or a module around them; refuses none."""
    matched = [w for w in weights if any(fnmatchcase(name, pattern) for name in w.names)]
    if not matched:
        names = {name for w in weights for name in w.names}
        near = difflib.get_close_matches(pattern, sorted(names), n=3, cutoff=0.3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise Error(f"prepare: pattern {pattern!r} matches no weight or module{hint}.")
    return matched


def _check_quantisable(pattern: str, matched: list[WeightPlace]) -> None:
    if all(w.obstacle for w in matched):
        w = matched[0]
        raise Error(
            f"prepare: pattern {pattern!r} matches only weights that cannot be quantised, such "
            f"as {w.name} ({w.obstacle})."
        )


def _check_pairs(weights: list[WeightPlace], chosen: dict[int, int]) -> None:
    """Refuse one weight in float beside a quantised one of the same layer of an LSTM or GRU."""
    pairs: dict[tuple[nn.Module, str], list[WeightPlace]] = defaultdict(list)
    for w in weights:
        if w.layer is not None and w.obstacle is None:
            pairs[w.module, w.layer].append(w)
    for pair in pairs.values():
        floats = [w for w in pair if id(w.parameter) not in chosen]
        if floats and len(floats) < len(pair):
            other = next(w for w in pair if w not in floats)
            raise Error(
                f"prepare: {floats[0].name} would stay in float beside {other.name} in the same "
                f"layer of the {type(other.module).__name__}; give both bits or neither."
            )


def _choose_activations(
    weights: list[WeightPlace], chosen: dict[int, int], default: str, patterns: Mapping[str, str]
) -> dict[WeightPlace, str]:
    """The kind of activations each quantised weight meets."""
    explicit = {w: kind for p, kind in patterns.items() for w in matched_weights(p, weights)}
    kinds = {
        w: "fp32" if _meets_floats(w) else explicit.get(w, default)
        for w in weights
        if id(w.parameter) in chosen
    }
    of_layer: dict[tuple[nn.Module, object], WeightPlace] = {}
    for w, kind in kinds.items():
        first = of_layer.setdefault((w.module, w.layer), w)
        if kinds[first] != kind:
            raise Error(
                f"prepare: {first.name} ({kinds[first]}) and {w.name} ({kind}) belong to one "
                "layer; give both the same activation."
            )
    return kinds


def _meets_floats(w: WeightPlace) -> bool:
    kind = layer_kind(w.module)
    return kind is not None and KINDS[kind].meets_floats(w.module)
