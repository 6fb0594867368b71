"""python -m gq_tvm.allocate: bits for each weight of a model within a budget of bytes."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gq_tvm import files
from gq_tvm.columns import columns
from gq_tvm.command import command, positive
from gq_tvm.errors import Error

if TYPE_CHECKING:
    from gq_tvm.models.allocation.allocate import Proposal
    from gq_tvm.models.allocation.sensitivity import Sensitivity

DESCRIPTION = """\
Propose bits for each weight of a model: from what gq-tvm sensitivity measured, or of a trained
float recogniser, for which this measures it. There each weight is quantised alone with each number
of bits; how far the network's scores move away from those of the float network, on recordings of
the development corpora, is its sensitivity. Of all allocations within the budget the one with the
least sum is taken, and a recogniser's is measured as a whole.
"""
EXAMPLE = """\
examples:
  python -m gq_tvm.allocate sensitivity.json --budget 300KB
  python -m gq_tvm.allocate sensitivity.json --sqnr 20 -o bits.toml
  python -m gq_tvm.allocate digits-rnnt-fp32.safetensors --config digits-rnnt \\
      --set folders.fsdd=FOLDER --budget 300KB -o allocation.toml
  python -m gq_tvm.train digits-rnnt --set folders.fsdd=FOLDER --set output=allocated \\
      --set quantise.allocation=allocation.toml
"""
_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "kib": 1024, "mib": 1024**2}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m gq_tvm.allocate",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "source",
        type=Path,
        metavar="FILE",
        help="what gq-tvm sensitivity wrote, or OUTPUT-fp32.safetensors of a training",
    )
    result.add_argument("--config", help="what the recogniser was trained with")
    result.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="as of gq_tvm.train",
    )
    goal = result.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--budget",
        type=_bytes,
        metavar="SIZE",
        help="of the deployed weights with codebooks and what stays in float: 300KB, 1.2MiB",
    )
    goal.add_argument(
        "--sqnr",
        type=float,
        metavar="DB",
        help="fewest bytes with so many dB of signal to quantisation noise in the outputs",
    )
    result.add_argument(
        "--choices",
        type=widths,
        default=[1, 2, 3, 4, 8],
        metavar="N,N",
        help="of a recogniser: bits to choose from (default: 1,2,3,4,8)",
    )
    result.add_argument(
        "--utterances",
        type=positive,
        default=100,
        metavar="N",
        help="of each development set of a recogniser (default: 100)",
    )
    result.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write [quantise.overrides] for training"
    )
    result.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads (default: PyTorch's choice)"
    )
    return result


@command
def main(argv: list[str] | None = None) -> int:
    """Parse, measure, choose, print."""
    arguments = parser().parse_args(argv)
    if arguments.output and not os.path.isdir(arguments.output.absolute().parent):
        raise Error(f"{arguments.output}: there is no such folder; choose another file")
    if arguments.config is None:
        return _of_any_model(arguments)
    if arguments.budget is None:
        raise Error("--sqnr is for what gq-tvm sensitivity wrote; give --budget with --config")
    return _of_a_recogniser(arguments)


def _of_any_model(arguments: argparse.Namespace) -> int:
    if arguments.source.suffix == ".safetensors":
        raise Error(f"{arguments.source}: a recogniser needs --config, what it was trained with")

    from gq_tvm import quantize

    measured = quantize.Sensitivity.load(arguments.source)
    found = quantize.allocate(measured, arguments.budget, sqnr=arguments.sqnr)
    print(found)
    if arguments.output:
        files.write_text(arguments.output, found.toml())
        print(f"wrote {arguments.output}")
    return 0


def _of_a_recogniser(arguments: argparse.Namespace) -> int:
    import torch  # after parsing: --help should not wait for it

    from gq_tvm.models.allocation import allocate as allocation
    from gq_tvm.models.allocation import sensitivity
    from gq_tvm.models.configuration.config import read
    from gq_tvm.models.training.start import float_checkpoint

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = read(arguments.config, arguments.changes)
    model, features, _ = float_checkpoint(arguments.source, config)
    batches = allocation.development_batches(config, features, arguments.utterances)
    per_row = bool(config.quantise.options.get("per_row"))
    quantised = sensitivity.Quantised(model, arguments.choices, per_row)

    def report(line: str) -> None:
        print(time.strftime("%H:%M:%S"), line, flush=True)

    measured = sensitivity.measure(quantised, batches, report)
    found = allocation.propose(quantised, measured, arguments.budget, batches, report)
    print(_table(measured, found))
    print(_summary(found, arguments.budget, quantised.choices))
    if arguments.output:
        _write(arguments.output, found, arguments.budget)
        print(f"wrote {arguments.output}; train with --set quantise.allocation={arguments.output}")
    return 0


def _table(measured: Sensitivity, found: Proposal) -> str:
    """Weights, sensitivity in millinats at each number of bits, and what was chosen."""
    choices = sorted(next(iter(measured.sizes.values())))
    rows = [["weight", *(f"{n} bits" for n in choices), "chosen", "bytes"]]
    for name, own in measured.divergence.items():
        bits = found.bits[name]
        values = (f"{1000 * own[n]:.3f}" for n in choices)
        rows.append([name, *values, str(bits), str(measured.sizes[name][bits])])
    return (
        f"divergence in millinats:\n{columns(rows, right=range(1, len(rows[0])))}\n"
        f"all that has no bits to choose: {measured.fixed} bytes"
    )


def _summary(found: Proposal, budget: int, choices: list[int]) -> str:
    lines = [
        f"allocation: {found.size} bytes of {budget}, divergence {1000 * found.measured:.3f} "
        f"millinats (its weights alone add up to {1000 * found.sum:.3f})",
        f"uniform {found.uniform} bits, the nearest in size: {found.uniform_size} bytes, "
        f"divergence {1000 * found.uniform_measured:.3f} millinats",
    ]
    if set(found.bits.values()) == {max(choices)}:
        lines.append(
            f"every weight has {max(choices)} bits, the most there was to choose from: "
            f"{budget - found.size} bytes of the budget are left"
        )
    return "\n".join(lines)


def _write(path: Path, found: Proposal, budget: int) -> None:
    """Write the overrides, whole or not at all; raises Error when they cannot be written."""
    lines = [
        f"# {found.size} bytes of a budget of {budget}; put this into a configuration, or give it",
        "# to gq_tvm.train with --set quantise.allocation=FILE",
        "[quantise.overrides]",
        *(f'"{name}" = {bits}' for name, bits in found.bits.items()),
    ]
    files.write_text(path, "\n".join(lines) + "\n")


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", text.strip().lower())
    if not match or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 300KB, 1.2MiB or 300000")
    return int(float(match[1]) * _UNITS[match[2]])


def widths(text: str) -> list[int]:
    """Read numbers of bits, as ``2,3,4``: the ``type`` of an argument."""
    parts = text.split(",")
    if not all(part in set("12345678") and part for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} are no bits; write some of 1 to 8, as 1,2,4,8")
    return sorted({int(part) for part in parts})


if __name__ == "__main__":
    sys.exit(main())
