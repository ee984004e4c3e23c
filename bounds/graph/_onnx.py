"""Reads an ONNX network into a Graph: order, fold, import, fuse, prune. Raises ModelError."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from provenn.bounds.graph._application import Application
from provenn.bounds.graph._builder import Builder, Operand, Value, is_finite
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._describe import symbolic_note
from provenn.bounds.graph._file import attribute_value, initialisers, read_model
from provenn.bounds.graph._fuse import settle_partial
from provenn.bounds.graph._graph import Graph
from provenn.bounds.graph._import_elementwise import TYPES
from provenn.bounds.graph._importers import HANDLERS as HANDLERS
from provenn.bounds.graph._importers import MISFITS, imported
from provenn.bounds.graph._interface import Interface, check_counts, check_value, input_shape
from provenn.bounds.graph._merge import simplify
from provenn.bounds.graph._unsupported import instead
from provenn.errors import ModelError, UnsupportedOperatorError

OLDEST_OPSET, NEWEST_OPSET = 7, 21
"""What the importers were written for and tested with; a newer set may give an operator another meaning."""
_HALF = (10, 16)


def read_onnx(path: str | os.PathLike[str], interface: Interface | None = None) -> Graph:
    """Read the ONNX network at ``path`` (plain or gzipped, by content) into a graph.

    With an ``interface`` the graph's outputs are its hidden tensors, then the file's outputs; a file of other inputs
    or outputs is refused, and dimensions that it leaves open are those of the interface.

    Shapes are static afterwards (an unknown or symbolic dimension is 1), shape arithmetic and
    everything else that is constant is folded, and only operators of ``provenn.bounds.ops.OPS`` remain.
    Raises ModelError for files that are broken or inconsistent, UnsupportedOperatorError for
    operators that provenn cannot represent; both name the file and the node.
    """
    path = Path(path)
    try:
        model = read_model(path)
        return _Reader(model, path.parent, str(path), interface).read()
    except ModelError as error:
        text = " ".join(str(error).split())
        if text.startswith(str(path)):
            raise
        raise type(error)(f"{path}: {text}") from error


@dataclass
class _Reader:
    model: onnx.ModelProto
    folder: Path
    source: str
    interface: Interface | None = None

    def read(self) -> Graph:
        graph = self.model.graph
        self.opset = self._opset()
        self.builder = Builder()
        self.tensors: dict[str, Operand] = {}
        self.parameters = 0
        self.symbolic: list[tuple[str, str]] = []
        order = self._order(graph)
        stored = dict(initialisers(self.model, self.folder))
        for name, array in stored.items():
            self._check_finite(array, name)
            self.parameters += array.size
            self.tensors[name] = Constant(array)
        infos = [info for info in graph.input if info.name not in stored]
        if self.interface is not None:
            check_counts(self.interface, infos, [info.name for info in graph.output])
        inputs = [self._input(info, place) for place, info in enumerate(infos)]
        for node in order:
            self._apply(node)
        outputs = self._outputs(graph)
        if not outputs:
            raise ModelError("the network has no output")
        whole = settle_partial(self.builder.nodes, self.builder.coordinate_nodes, outputs)
        nodes, inputs_at, outputs_at = simplify(whole, [v.index for v in inputs], outputs)
        return Graph(tuple(nodes), tuple(inputs_at), tuple(outputs_at), self.source, self._metadata(graph))

    # ------------------------------------------------------------------------------------ the file

    def _opset(self) -> int:
        versions = [entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")]
        if not versions:
            raise ModelError("declares no version of the ai.onnx operator set, export it again")
        if max(versions) < OLDEST_OPSET:
            raise ModelError(
                f"uses operator set {max(versions)}, expected {OLDEST_OPSET} or newer; "
                "convert it with onnx.version_converter.convert_version"
            )
        if max(versions) > NEWEST_OPSET:
            raise ModelError(
                f"uses operator set {max(versions)}, expected at most {NEWEST_OPSET}; "
                f"re-export it with opset <= {NEWEST_OPSET}"
            )
        return max(versions)

    def _metadata(self, graph: onnx.GraphProto) -> Mapping[str, Any]:
        return {
            "name": graph.name,
            "producer": f"{self.model.producer_name} {self.model.producer_version}".strip(),
            "opset": self.opset,
            "parameters": self.parameters,
            "onnx_nodes": len(graph.node),
            "symbolic": tuple(self.symbolic),
            "output_names": tuple(info.name for info in graph.output),
        }

    def _order(self, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
        """Nodes that the outputs need, operands first."""
        for node in graph.node:
            if not all(
                isinstance(text, str)
                for text in (node.op_type, node.domain, node.name, *node.input, *node.output)
            ):
                raise ModelError("a node's name is not text (UTF-8): the file is damaged, export it again")
        producer: dict[str, int] = {}
        for position, node in enumerate(graph.node):
            for name in node.output:
                if name and producer.setdefault(name, position) != position:
                    raise ModelError(
                        f"tensor {name!r} is computed twice, by {_title(node)} too; export the network again"
                    )
        known = {info.name for info in graph.input} | {proto.name for proto in graph.initializer}
        known |= {sparse.values.name for sparse in graph.sparse_initializer}
        state: dict[int, int] = {}
        order: list[onnx.NodeProto] = []
        for wanted, what in self._wanted(graph):
            if wanted not in producer and wanted not in known:
                raise ModelError(f"{what} is computed by no node; {self._instead(wanted, producer)}")
            stack = [(producer[wanted], False)] if wanted in producer else []
            while stack:
                position, finished = stack.pop()
                if finished:
                    state[position] = 2
                    order.append(graph.node[position])
                    continue
                if state.get(position):
                    continue
                state[position] = 1
                stack.append((position, True))
                for name in graph.node[position].input:
                    if not name or (name in known and name not in producer):
                        continue
                    if name not in producer:
                        raise ModelError(
                            f"{_title(graph.node[position])} reads {name!r}, which nothing computes: it is no input, "
                            "no stored weight and no node's output; mend the name, or export the network again"
                        )
                    if state.get(producer[name]) == 1:
                        raise ModelError(
                            f"{_title(graph.node[position])} is part of a cycle through {name!r}; "
                            "export the network again"
                        )
                    stack.append((producer[name], False))
        return order

    def _wanted(self, graph: onnx.GraphProto) -> list[tuple[str, str]]:
        """Names of the tensors that the graph is read for, and what to call them."""
        hidden = () if self.interface is None else self.interface.hidden
        found = [(tensor.tensor or "", f"hidden tensor {tensor.tensor!r} ({tensor.name})") for tensor in hidden]
        return found + [(info.name, f"output {info.name!r}") for info in graph.output]

    def _instead(self, name: str, known: Mapping[str, int]) -> str:
        """What to do about an output or a hidden tensor that no node computes."""
        if any(name == info.name for info in self.model.graph.output):
            return "export the network again"
        near = difflib.get_close_matches(name, known, 3)
        return f"mend the name ({'such as ' + ', '.join(map(repr, near)) if near else 'inspect the file for names'})"

    def _outputs(self, graph: onnx.GraphProto) -> list[int]:
        """Nodes of the hidden tensors and of the outputs, of the shapes and types that are expected."""
        wanted = self._wanted(graph)
        found = [self._output(name) for name, _ in wanted]
        if self.interface is not None:
            expected = (*self.interface.hidden, *self.interface.outputs)
            for tensor, index, (_, what) in zip(expected, found, wanted, strict=True):
                node = self.builder.nodes[index]
                check_value(tensor, node.shape, node.scalar_type, what)
        return found

    def _check_finite(self, array: np.ndarray, name: str) -> None:
        if is_finite(array):
            return
        wrong = np.unravel_index(np.argmin(np.isfinite(array)), array.shape)
        place = f"{array[wrong]} at [{', '.join(map(str, wrong))}]"
        readers = [node for node in self.model.graph.node if name in node.input]
        place += f", read by {_title(readers[0])}" if readers else ""
        raise ModelError(f"initialiser {name!r} contains NaN or infinity ({place}), mend the network's weights")

    def _input(self, info: onnx.ValueInfoProto, place: int) -> Value:
        kind = info.type.tensor_type
        if not info.type.HasField("tensor_type") or not kind.HasField("shape"):
            raise ModelError(f"input {info.name!r} declares no shape, expected a tensor with one")
        if kind.elem_type not in TYPES:
            raise ModelError(
                f"input {info.name!r} has element type {kind.elem_type}, expected a float or integer"
            )
        if kind.elem_type in _HALF:
            raise ModelError(f"input {info.name!r} has half precision, export the network in float32")
        shape = [
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else 1 for dim in kind.shape.dim
        ]
        if self.interface is not None:
            shape = list(input_shape(self.interface.inputs[place], info))
        for axis, dim in enumerate(() if self.interface is not None else kind.shape.dim):
            if dim.dim_value <= 0 and (axis > 0 or len(shape) == 1):  # a leading one is the batch
                self.symbolic.append((repr(dim.dim_param) if dim.dim_param else str(axis), info.name))
        self.builder.name, self.builder.origin = info.name, f"input {info.name!r}"
        value = self.builder.emit("input", (), shape, TYPES[kind.elem_type])
        self.tensors[info.name] = value
        return value

    def _output(self, name: str) -> int:
        operand = self.tensors[name]
        self.builder.name, self.builder.origin = name, f"output {name!r}"
        if isinstance(operand, Constant):
            return self.builder.constant(operand).index
        if self.builder.node(operand).scalar_type != operand.scalar_type:
            # A cast that leaves the real value alone still decides the element type of the output.
            return self.builder.emit("reshape", (operand,), operand.shape, operand.scalar_type).index
        return operand.index

    # ------------------------------------------------------------------------------------ nodes

    def _apply(self, node: onnx.NodeProto) -> None:
        handler = self._handler(node)
        operands = tuple(self.tensors[name] if name else None for name in node.input)
        where = f"attribute of {_title(node)}"
        attributes = {a.name: attribute_value(a, self.folder, where) for a in node.attribute}
        self.builder.name = node.output[0] if node.output else ""
        op = Application(
            node.op_type, _label(node), operands, attributes, self.opset, tuple(node.output), self.builder
        )
        self.builder.origin = op.origin
        try:
            results = imported(op, handler)
        except ModelError as error:
            if isinstance(error, UnsupportedOperatorError) or not self.symbolic:
                raise
            raise ModelError(f"{error}; {symbolic_note(self.symbolic)}") from error
        except MISFITS as error:
            note = f"; {symbolic_note(self.symbolic)}" if self.symbolic else ""
            raise ModelError(f"{op.origin}: operands or attributes do not fit ({error}){note}") from error
        if op.operator == "Constant":
            array = results[0].array  # type: ignore[union-attr]
            self.parameters += array.size if array.size > 16 else 0
        for name, result in zip(node.output, results, strict=False):
            self.tensors[name] = result
        for name in node.output[len(results) :]:
            if name:
                self._forget(name, op)

    def _forget(self, name: str, op: Application) -> None:
        """An output that is not imported may exist as long as nothing reads it."""
        used = any(name in other.input for other in self.model.graph.node)
        if used or any(name == info.name for info in self.model.graph.output):
            op.unsupported(f"its output {name!r}", "re-export without using that output")

    def _handler(self, node: onnx.NodeProto):  # type: ignore[no-untyped-def]
        if node.domain not in ("", "ai.onnx"):
            raise UnsupportedOperatorError(
                f"unsupported operator {node.domain}.{_title(node)}: custom operators have no known meaning; "
                "re-export with standard ONNX operators"
            )
        handler = HANDLERS.get(node.op_type)
        if handler is None:
            raise UnsupportedOperatorError(f"unsupported operator {_title(node)}: {instead(node, HANDLERS)}")
        return handler


def _label(node: onnx.NodeProto) -> str:
    return node.name or (f"that computes {node.output[0]!r}" if node.output else "without name")


def _title(node: onnx.NodeProto) -> str:
    return f"{node.op_type} (node {_label(node)})"
