"""A recogniser in one file: its networks as exported programs and what is needed to use them.

The file is a PyTorch archive (``.pt2``) with the programs ``encoder`` and, of a transducer,
``predictor`` and ``joint``, and the extra file ``gq_metadata.json``; one call of the encoder takes
any number of frames up to ``MAX_ENCODER_FRAMES`` and hands its state back, so it streams.
"""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.pt2_archive._package import package_pt2

import gq_tvm.ops.torch_ops  # noqa: F401  (registers the operators the programs call)
from gq_tvm import files
from gq_tvm.models.networks.network import Network
from gq_tvm.models.networks.rnnt import RNNT
from gq_tvm.models.torch_recogniser import description
from gq_tvm.ops import METADATA
from gq_tvm.speech.decoding import MAX_ENCODER_FRAMES
from gq_tvm.speech.features import FeatureSettings


def save(
    model: Network,
    features: FeatureSettings,
    path: str | Path,
    training: dict[str, Any] | None = None,
) -> None:
    """Write a recogniser, its weights in codebooks or in float, as one file.

    An interruption leaves the old file in place. Raises Error when the file cannot be written.
    """
    text = json.dumps(description(model, features, training).to_dict(), indent=1)
    packed = io.BytesIO()  # to a file that cannot grow PyTorch's writer ends the process
    package_pt2(packed, exported_programs=programs(model), extra_files={METADATA: text})
    with files.whole(path, "make room, and try again") as temporary:
        temporary.write_bytes(packed.getbuffer())


def programs(model: Network) -> dict[str, torch.export.ExportedProgram]:
    """The networks as exported programs; only the encoder's time is symbolic."""
    model = copy.deepcopy(model).eval()
    time = torch.export.Dim("T", min=1, max=MAX_ENCODER_FRAMES)
    states = {
        name: [torch.zeros(shape) for shape in shapes.values()]
        for name, shapes in model.state_shapes().items()
    }
    features = torch.zeros(1, 7, model.features)
    arguments: dict[str, tuple[Tensor, ...]] = {"encoder": (features, *states["encoder"])}
    if isinstance(model, RNNT):
        side = torch.zeros(1, 1, model.settings.joint_size)
        start = torch.zeros(1, 1, dtype=torch.int64)
        arguments |= {"predictor": (start, *states["predictor"]), "joint": (side, side.clone())}
    networks: dict[str, nn.Module] = dict(model.named_children())
    dynamic = {"encoder": ({1: time}, *[None] * len(states["encoder"]))}
    exported = {
        name: torch.export.export(networks[name], given, dynamic_shapes=dynamic.get(name))
        for name, given in arguments.items()
    }
    for program in exported.values():
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
    return exported
