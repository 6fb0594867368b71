"""Plans of models whose kernels are not compiled."""

from __future__ import annotations

from torch.export import ExportedProgram

from gq_tvm import frontend, passes, targets
from gq_tvm.plan import from_module
from gq_tvm.plan.plan import Content, Plan
from gq_tvm.runtime.artefact import weights


def plan_of(program: ExportedProgram, kernel: str = "auto") -> Plan:
    """The plan of an exported program whose kernels are not compiled."""
    target = targets.get("x86-64")
    translated = frontend.translate(frontend.read(program), None)
    module, parameters = passes.lower(translated.module, target, kernel, translated.names)
    places = weights.offsets(parameters.arrays)
    functions = from_module.functions(module, ["main"], places, parameters.uses)
    runtime = from_module.runtime_functions(from_module.kernels(module))
    none = Content(0, 0)
    return Plan(target.machine, (), functions, runtime=runtime, weights=none, kernels=none)
