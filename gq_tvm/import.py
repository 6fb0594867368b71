"""``gq-tvm import``: the weights of a GGUF or safetensors file, few values as codebooks."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from gq_tvm.command import command
from gq_tvm.errors import Error

_EPILOG = """\
The file written is for gq_tvm.quantize.load_weights(model, FILE), which puts the weights into a
PyTorch model by their names.

examples:
  gq-tvm import model.gguf -o weights.safetensors
  gq-tvm import palettised.safetensors -o weights.safetensors
"""


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="gq-tvm import",
        description="Make weights by name of a file, those that hold few values as codebooks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="a .gguf or .safetensors file")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the file to write")
    options = parser.parse_args(argv)
    source, output = Path(options.file), Path(options.output)
    if not source.is_file():
        raise Error(f"{source} is no file; give the path of one")
    if output.is_dir() or source.resolve() == output.resolve():
        raise Error(f"{output} is a folder or the file itself; choose another --output")

    from torch import Tensor

    from gq_tvm.weight_files import read_weights, write_weights

    weights = read_weights(source, lambda text: print(f"warning: {text}", file=sys.stderr))
    write_weights(weights, output)
    codebooks = [one for one in weights.values() if not isinstance(one, Tensor)]
    bits = Counter(one.bits for one in codebooks)
    kinds = ", ".join(f"{count} of {n} bits" for n, count in sorted(bits.items())) or "none"
    size = output.stat().st_size
    print(f"{output}: {len(weights)} tensors, codebooks: {kinds}; {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
