"""python -m gq_tvm.train: train a spoken-digit recogniser with GQ weights."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

from gq_tvm import cache
from gq_tvm.command import command, positive
from gq_tvm.ops.checks import ACTIVATIONS

DESCRIPTION = """\
Train a recogniser of spoken digits (RNN transducer, LSTM): float weights first, then GQ, which
leaves every weight a few bits. Writes OUTPUT.pt2 (the recogniser), OUTPUT.json (word error
rates, bits, sizes), and the checkpoints OUTPUT-fp32.safetensors and OUTPUT-gq.safetensors.
"""
EXAMPLE = """\
example:
  python -m gq_tvm.train --recordings free-spoken-digit-dataset/recordings --output digits \\
      --bits 4 --override 'encoder.lstm.*=2' --override 'joint.*=8'
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m gq_tvm.train",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = result.add_argument_group("data")
    data.add_argument(
        "--recordings",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="Free Spoken Digit Dataset: DIGIT_SPEAKER_TAKE.wav",
    )
    data.add_argument(
        "--train-speakers", type=_names, metavar="A,B", help="default: jackson,nicolas,lucas"
    )
    data.add_argument(
        "--development-speakers",
        type=_names,
        metavar="A,B",
        help="evaluated while training (default: yweweler)",
    )
    data.add_argument(
        "--test-speakers",
        type=_names,
        metavar="A,B",
        help="evaluated once, at the end (default: george)",
    )
    data.add_argument(
        "--voices",
        type=_count,
        default=400,
        metavar="N",
        help="synthetic voices (espeak-ng, flite) that say the digits; 0: recordings only "
        "(default: 400)",
    )
    data.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="where synthetic speech is kept (default: speech in the cache folder of gq-tvm)",
    )
    data.add_argument(
        "--also",
        type=_named_path,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="evaluate on a JSON-lines manifest too, "
        'a line being {"audio": "a.wav", "text": "one two"}',
    )
    model = result.add_argument_group("model and training")
    model.add_argument("--output", type=Path, required=True, metavar="OUTPUT", help="see above")
    model.add_argument(
        "--steps",
        type=positive,
        metavar="N",
        help="with float weights (3000; with --initial: 600)",
    )
    model.add_argument(
        "--gq-steps", type=positive, default=1200, metavar="N", help="with GQ (1200)"
    )
    model.add_argument(
        "--bits", type=_bits, default=4, metavar="N", help="bits a weight, 1 to 8 (default: 4)"
    )
    model.add_argument(
        "--override",
        type=_override,
        action="append",
        default=[],
        metavar="PATTERN=N",
        help="other bits for layers whose name matches, as encoder.lstm.0=3; may be repeated",
    )
    model.add_argument("--activation", choices=ACTIVATIONS, default="int8", help="default: int8")
    model.add_argument("--batch", type=positive, default=32, metavar="N", help="default: 32")
    model.add_argument("--seed", type=_count, default=1, metavar="N", help="default: 1")
    model.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads (default: PyTorch's choice)"
    )
    start = model.add_mutually_exclusive_group()
    start.add_argument(
        "--start-from",
        type=Path,
        metavar="FILE",
        help="float weights from this checkpoint instead of training them",
    )
    start.add_argument(
        "--initial",
        type=Path,
        metavar="FILE",
        help="train the float weights of this checkpoint further",
    )
    model.add_argument(
        "--resume", action="store_true", help="continue from OUTPUT's checkpoints where they exist"
    )
    return result


@command
def main(argv: list[str] | None = None) -> int:
    """Parse, train, print."""
    given = sys.argv[1:] if argv is None else argv
    arguments = parser().parse_args(given)

    import torch  # after parsing: --help should not wait for it

    from gq_tvm.models.digits_training import FURTHER, DigitTraining, train

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    defaults = DigitTraining(arguments.recordings, arguments.output, _cache(arguments.cache))
    recipe, fp32 = defaults.recipe, FURTHER if arguments.initial else defaults.fp32
    settings = replace(
        defaults,
        seed=arguments.seed,
        recipe=replace(
            recipe,
            train=arguments.train_speakers or recipe.train,
            development=arguments.development_speakers or recipe.development,
            test=arguments.test_speakers or recipe.test,
            voices=arguments.voices,
        ),
        batch=arguments.batch,
        fp32=replace(fp32, steps=arguments.steps or fp32.steps),
        gq=replace(defaults.gq, steps=arguments.gq_steps),
        bits=arguments.bits,
        overrides=dict(arguments.override),
        activation=arguments.activation,
        initial=arguments.initial,
        start_from=arguments.start_from,
        resume=arguments.resume,
        also=dict(arguments.also),
    )
    spelled = shlex.join(["python", "-m", "gq_tvm.train", *given])
    train(settings, spelled, lambda line: print(time.strftime("%H:%M:%S"), line, flush=True))
    return 0


def _cache(folder: Path | None) -> Path:
    return folder or cache.root() / "speech"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def _bits(text: str) -> int:
    if text not in set("12345678"):
        raise argparse.ArgumentTypeError(f"{text!r} bits are not possible; choose 1 to 8")
    return int(text)


def _override(text: str) -> tuple[str, int]:
    pattern, equals, bits = text.rpartition("=")
    if not (pattern and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form PATTERN=BITS")
    return pattern, _bits(bits)


def _named_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=FILE")
    return name, Path(path)


if __name__ == "__main__":
    sys.exit(main())
