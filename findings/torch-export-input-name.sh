#!/bin/bash
# torch 2.13.0: an exported program whose model names an argument `input`, as torch's own functions do, has
# no valid copy. torch.export gives the placeholder that name, but a node that fx makes itself may not be
# called as a builtin of Python, so Graph.graph_copy and copy.deepcopy call it `input_1`, and the
# program's signature, which goes by names, still says `input`.
# Seen: the copied graph with the old signature, and saving a deep copy of the program, raise
# SpecViolationError: Input spec name input does not match node name input_1. The same with `id`, `max`,
# `type`, `device` or `torch`; with `x` both work.
# Who copies an exported graph sets the placeholders' names (Node.name) from the original afterwards.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder" && venv/bin/python -W ignore - <<'PYTHON'
import copy
import io

import torch


def exported(name):
    namespace = {"torch": torch}
    exec(f"class Model(torch.nn.Module):\n def forward(self, {name}): return {name} + 1\n", namespace)
    return torch.export.export(namespace["Model"](), (torch.zeros(2),))


def rebuilt(program, restore=False):
    graph = torch.fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    if restore:
        for node, original in zip(graph.nodes, program.graph.nodes):
            node.name = original.name
    return torch.export.ExportedProgram(
        root=program.graph_module,
        graph=graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        constants=program.constants,
    )


def outcome(function):
    try:
        function()
        return "works"
    except Exception as failure:
        return f"{type(failure).__name__}: {failure}"


for name in "x", "input", "id", "max", "type", "device", "torch":
    program = exported(name)
    copied = copy.deepcopy(program)
    outcomes = {
        "graph_copy": outcome(lambda: rebuilt(program)),
        "saved": outcome(lambda: torch.export.save(program, io.BytesIO())),
        "saved deep copy": outcome(lambda: torch.export.save(copied, io.BytesIO())),
        "graph_copy, names restored": outcome(lambda: rebuilt(program, restore=True)),
    }
    print(f"{name}:", outcomes)
    assert outcomes["saved"] == outcomes["graph_copy, names restored"] == "works"
    wanted = "works" if name == "x" else (
        f"SpecViolationError: Input spec name {name} does not match node name {name}_1"
    )
    assert outcomes["graph_copy"] == outcomes["saved deep copy"] == wanted
PYTHON
