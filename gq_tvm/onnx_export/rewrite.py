"""Nodes of our operators become calls of functions, their weights packed."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gq_tvm.errors import Error
from gq_tvm.onnx_export.nbits import blocks_of
from gq_tvm.onnx_functions import DOMAIN, INPUTS, Signature, function, pack
from gq_tvm.ops.checks import bits_of
from gq_tvm.ops.weight import Outliers, Weight

_WEIGHT = re.compile(r"(.*?)\.?(?:indices|weight)(?:_ih)?(?:_(l\d.*))?$")
_MICROSOFT = "com.microsoft"
_BLOCKS = (".data", ".scales", ".zero_points")


def rewrite(model: ir.Model, opset: int, nbits: bool) -> None:
    """Put functions, and MatMulNBits, in the place of our operators.

    Args:
        model: What PyTorch's exporter gave; it is changed.
        opset: Of ONNX's own domain.
        nbits: Whether products with uniform grids become MatMulNBits.

    Raises:
        Error: an operator cannot be written; the text names its layer.
    """
    _Rewriter(model, opset, nbits).run()


class _Rewriter:
    def __init__(self, model: ir.Model, opset: int, nbits: bool) -> None:
        self._model = model
        self._opset = opset
        self._nbits = nbits
        self._made: dict[tuple[int, str, bytes], ir.Value] = {}
        self._paths: dict[int, str] = {}
        self._functions: dict[bytes, str] = {}
        self._names: Counter[str] = Counter()
        self._microsoft = False

    def run(self) -> None:
        ours = 0
        for node in list(self._model.graph.all_nodes()):
            if node.domain == DOMAIN:
                self._rewrite(node)
                ours += node.domain == DOMAIN
        used = {DOMAIN: ours, _MICROSOFT: self._microsoft}
        self._model.opset_imports.pop(DOMAIN, None)
        self._model.opset_imports.update({name: 1 for name, count in used.items() if count})
        self._drop_unused()

    def _rewrite(self, node: ir.Node) -> None:
        inputs = tuple(node.attributes.pop(INPUTS).as_strings())
        given = {
            name: one for name, one in zip(inputs, node.inputs, strict=True) if one is not None
        }
        node.name = self._name(node, given)
        if self._nbits and node.op_type == "codebook_linear" and self._as_nbits(node, given):
            return
        for name, value in given.items():
            if name.startswith(("indices", "codebook", "scale")):
                array = self._array(node, value)
                node.attributes.add(ir.AttrInt64s(f"{name}_shape", array.shape))
                if name.startswith("indices"):
                    ending = name.removeprefix("indices")
                    bits = bits_of(self._array(node, given[f"codebook{ending}"]))
                    given[name] = self._held(value, "", pack(array, bits))
        for at, value in enumerate(given.values()):
            node.replace_input_with(at, value)
        attributes = {name: one.value for name, one in node.attributes.items()}
        if attributes.get("clip") and attributes.get("cell") == "lstm":
            raise Error(
                f"layer {node.name} limits what its functions are given (clip), which an LSTM of "
                "ONNX Runtime does not do to c; leave the limit out"
            )
        node.op_type = self._function(Signature(node.op_type, inputs, attributes))
        node.version = None

    def _as_nbits(self, node: ir.Node, given: dict[str, ir.Value]) -> bool:
        if node.attributes["activation"].as_string() != "fp32":
            return False
        found = blocks_of(self._weight(node, given))
        if found is None:
            return False
        held = [
            self._held(given["indices"], ending, array)
            for ending, array in zip(_BLOCKS, found.arrays, strict=True)
        ]
        inputs = [given["x"], *held, *([None, given["bias"]] if "bias" in given else [])]
        node.domain, node.op_type, node.version = _MICROSOFT, "MatMulNBits", None
        node.resize_inputs(len(inputs))
        for at, value in enumerate(inputs):
            node.replace_input_with(at, value)
        node.attributes.clear()
        for name, value in found.attributes.items():
            node.attributes.add(ir.AttrInt64(name, value))
        self._microsoft = True
        return True

    def _weight(self, node: ir.Node, given: dict[str, ir.Value]) -> Weight:
        arrays = {
            name: self._array(node, given[name])
            for name in ("indices", "codebook", "scale", "zero")
            if name in given
        }
        arrays.setdefault("scale", np.ones(1, np.float32))
        outliers = None
        if "outlier_positions" in given:
            named = (given[f"outlier_{one}"] for one in ("positions", "values"))
            outliers = Outliers(*(self._array(node, one) for one in named))
        return Weight(**arrays, outliers=outliers)

    def _array(self, node: ir.Node, value: ir.Value) -> NDArray:
        if value.const_value is None:
            raise Error(
                f"layer {node.name} has a weight that is computed from other values, and cannot be "
                "written to an ONNX file; give it a weight of its own"
            )
        return value.const_value.numpy()

    def _held(self, source: ir.Value, ending: str, array: NDArray) -> ir.Value:
        """An initialiser made of another, one for all nodes that have the same."""
        key = id(source), ending, hashlib.sha256(array.tobytes()).digest()
        if key not in self._made:
            name = self._free(f"{self._path(source)}{ending}")
            value = ir.val(name, const_value=ir.tensor(array, name=name))
            self._model.graph.register_initializer(value)
            self._made[key] = value
        return self._made[key]

    def _free(self, name: str) -> str:
        """A name no other initialiser has, but for one that is unpacked and goes."""
        held = self._model.graph.initializers
        made = {one.name for one in self._made.values()}
        path, number = name, 1
        while path in made:
            number += 1
            path = f"{name}_{number}"
        if path in held:
            old = held.pop(path)
            old.name = f"{path}.unpacked"
            held.add(old)
        return path

    def _path(self, value: ir.Value) -> str:
        """What a weight is called in the program."""
        return self._paths.setdefault(id(value), value.name or "")

    def _name(self, node: ir.Node, given: dict[str, ir.Value]) -> str:
        """The path of the layer: where its first weight is held."""
        first = next(one for name, one in given.items() if name.startswith(("indices", "weight")))
        match = _WEIGHT.match(self._path(first))
        parts = [one for one in match.groups() if one] if match else []
        name = ".".join(parts) or node.op_type
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}_{self._names[name]}"

    def _function(self, signature: Signature) -> str:
        written = function(signature, "", self._opset)
        key = written.SerializeToString(deterministic=True)
        if key not in self._functions:
            alike = sum(one[1].startswith(signature.operator) for one in self._model.functions)
            written.name = self._functions[key] = f"{signature.operator}_{alike + 1}"
            made = ir.serde.deserialize_function(written)
            self._model.functions[made.identifier()] = made
        return self._functions[key]

    def _drop_unused(self) -> None:
        held = self._model.graph.initializers
        for name, value in list(held.items()):
            if not value.uses() and not value.is_graph_output():
                del held[name]
