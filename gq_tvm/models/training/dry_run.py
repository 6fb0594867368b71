"""What a configuration would make, found out before anything is trained."""

from __future__ import annotations

from typing import Any

from gq_tvm import quantize
from gq_tvm.errors import Error
from gq_tvm.models.configuration.config import Config
from gq_tvm.models.networks.network import Network, build
from gq_tvm.models.networks.rnnt import RNNT


def prepared(config: Config, model: Network) -> Network:
    """``model`` with the quantisers of [quantise], in place.

    Raises Error when ``quantize.prepare`` refuses.
    """
    options: dict[str, Any] = dict(config.quantise.options)
    if isinstance(model, RNNT):  # it serves training only: no sizes to save, no errors to add
        given = options.get("overrides") or {}  # of patterns that fit the last counts
        options["overrides"] = given if "auxiliary" in given else {"auxiliary": 8, **given}
    try:
        quantize.prepare(model, **options)
    except Error as error:
        raise Error(f"the configuration's quantise: {error}") from None
    return model


def planned(config: Config) -> Network:
    """A prepared network with fresh weights: what can be refused early is refused here."""
    for corpus in config.corpora:
        corpus.check()
    model = prepared(config, build(config.network))
    hardness = config.quantise.hardness
    quantize.Annealing(model, config.quantise.schedule.steps, **vars(hardness))
    return model
