"""``gq-tvm VERB``, or ``python -m gq_tvm VERB``: the one door to all commands."""

from __future__ import annotations

import sys
from importlib import import_module

from gq_tvm.command import command
from gq_tvm.errors import Error

#: Each is a module of this package with a ``main``, imported when it is asked for.
VERBS = {
    "compress": "an exported float model becomes one whose weights live in codebooks",
    "compile": "an exported model becomes an artefact or a bundle for a device",
    "tune": "find the fastest schedules for the layers of a model",
    "verify": "whether an artefact computes what the exported model computes",
    "inspect": "what an artefact holds, layer by layer",
    "profile": "where the time goes, layer by layer, and bytes, against other artefacts",
    "transcribe": "recordings in, text out, by a compiled recogniser",
    "train": "train a speech recogniser with GQ weights from a configuration",
    "sensitivity": "what each weight of a float model loses at few bits",
    "allocate": "bits for each weight of a model within a budget of bytes",
    "import": "weights of a GGUF or safetensors file, those of few values as codebooks",
    "device": "run an emulated ARM board, or get what a real one needs",
    "demo": "the shipped digit recogniser, from its exported program to ARM",
}


def main(argv: list[str] | None = None) -> int:
    """Hand what follows the verb to its command, which returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    if given and given[0] in VERBS:
        return import_module(f"gq_tvm.{given[0]}").main(given[1:])
    return _without_a_verb(given)


@command
def _without_a_verb(argv: list[str] | None) -> int:
    word = argv[0] if argv else ""
    if word not in ("-h", "--help"):
        wrong = f"there is no verb {word!r}" if word else "a verb is missing"
        raise Error(f"{wrong}; choose from {', '.join(VERBS)}")
    print("usage: gq-tvm VERB ...\n\nA compiler for neural networks with codebook weights.\n")
    for verb, about in VERBS.items():
        print(f"  {verb:<12}{about}")
    print("\n`gq-tvm VERB --help` says what each takes.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
