"""python -m gq_tvm.train: train a speech recogniser with GQ weights from a configuration."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from typing import TYPE_CHECKING

from gq_tvm.command import command, positive

if TYPE_CHECKING:
    from gq_tvm.models.configuration.config import Config

DESCRIPTION = """\
Train a speech recogniser as a configuration says: float weights first, then GQ, which leaves
every weight a few bits. Writes OUTPUT.pt2 (the recogniser), OUTPUT.json (word error rates, bits,
sizes), and the checkpoints OUTPUT-fp32.safetensors and OUTPUT-quantised.safetensors. An interrupt
(Ctrl-C) finishes the step and writes the checkpoint; --resume goes on from there.
"""
EXAMPLE = """\
examples:
  python -m gq_tvm.train --list
  python -m gq_tvm.train digits-rnnt --set folders.fsdd=free-spoken-digit-dataset/recordings
  python -m gq_tvm.train mine.toml --set quantise.bits=2 --set output=two-bits --check
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m gq_tvm.train",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = result.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "config", nargs="?", metavar="CONFIG", help="a TOML file, or the name of a shipped one"
    )
    what.add_argument("--list", action="store_true", help="name the shipped configurations")
    result.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="another value, as fp32.steps=500 or corpus.0.share=0.3; may be repeated",
    )
    result.add_argument(
        "--check", action="store_true", help="say what would be trained, on what, and stop"
    )
    result.add_argument(
        "--resume", action="store_true", help="go on from OUTPUT's checkpoints where they exist"
    )
    result.add_argument(
        "--fp32-only", action="store_true", help="stop when the float weights are trained"
    )
    result.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads (default: PyTorch's choice)"
    )
    return result


@command
def main(argv: list[str] | None = None) -> int:
    """Parse, train, print."""
    given = sys.argv[1:] if argv is None else argv
    arguments = parser().parse_args(given)

    import torch  # after parsing: --help should not wait for it

    from gq_tvm.models.configuration import config_file
    from gq_tvm.models.configuration.config import read
    from gq_tvm.models.training import run

    if arguments.list:
        for name, about in config_file.shipped().items():
            print(f"{name:<26}{about}")
        return 0
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = read(arguments.config, arguments.changes)
    if arguments.check:
        _check(config)
        return 0
    spelled = shlex.join(["python", "-m", "gq_tvm.train", *given])
    run.train(
        config,
        spelled,
        resume=arguments.resume,
        fp32_only=arguments.fp32_only,
        report=lambda line: print(time.strftime("%H:%M:%S"), line, flush=True),
    )
    return 0


def _check(config: Config) -> None:
    """Print what a configuration would do; raises Error for what it could not."""
    from gq_tvm import quantize
    from gq_tvm.models.allocation.sizes import deployed_bytes
    from gq_tvm.models.data import loading as data
    from gq_tvm.models.training import dry_run as plan
    from gq_tvm.models.training import start

    start.configured(config)
    model = plan.planned(config)
    listed = quantize.describe(model)
    print(listed)
    weights = sum(w.float_size for w in listed) // 4
    print(f"{weights:,} weights in matrices; {deployed_bytes(model) / 1024:.1f} KiB deployed")
    for one in data.recordings(config, speak=False):
        about = one.summary()
        print(f"{about['role']:<12}{about['name']:<24}{about['utterances']:>8} utterances", end="")
        print(f"{about['hours']:>9.2f} hours")
    for corpus in config.corpora:
        if corpus.kind == "synthetic":
            times = f"{corpus.count} voices" if corpus.joined else f"{corpus.count} utterances"
            print(f"{corpus.role:<12}{corpus.name:<24}synthetic: {times}")
    fp32 = config.fp32.schedule
    before = f"{fp32.steps} steps in fp32" if fp32 else f"float weights of {config.fp32.start_from}"
    print(f"{before}, then {config.quantise.schedule.steps} steps with quantised weights")


if __name__ == "__main__":
    sys.exit(main())
