"""Reads a torch module into a Graph: export, then lower each ATen operator to what the ONNX importer builds."""

from __future__ import annotations

import contextlib
import logging
import operator
import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph._builder import Builder, Operand, Value, is_finite
from provenn.bounds.graph._call import Call, Lowering, is_constant, type_name
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._evaluate import evaluate
from provenn.bounds.graph._fuse import settle_partial
from provenn.bounds.graph._graph import Graph
from provenn.bounds.graph._importers import MISFITS
from provenn.bounds.graph._lower_elementwise import ELEMENTWISE
from provenn.bounds.graph._lower_layers import LAYERS
from provenn.bounds.graph._lower_structure import STRUCTURE
from provenn.bounds.graph._merge import simplify
from provenn.errors import InputError, ModelError, UnsupportedOperatorError

LOWERINGS: dict[str, Lowering] = {**ELEMENTWISE, **STRUCTURE, **LAYERS}
"""By the name of an ATen operator, without its overload."""

# Random inputs at which a graph is compared with its module, and how far apart their outputs may be.
_POINTS, _TOLERANCE = 3, 1e-3
# Operators whose result shares its elements with no other tensor.
_FRESH = frozenset({
    "conv1d", "conv2d", "conv3d", "linear", "batch_norm", "layer_norm", "group_norm", "add", "sub", "mul", "div", "cat",
    "stack", "matmul", "mm", "bmm", "addmm",
})  # fmt: skip
_TYPES = {torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool}


def read_module(module: torch.nn.Module, *examples: Tensor) -> Graph:
    """Read a torch module into a graph; ``examples`` are tensors of the shapes and element types of its inputs.

    Their values do not matter, unless ``forward`` turns them into Python numbers. Shapes are static afterwards, and
    batch normalisation, dropout and the like must be in evaluation mode. The module goes through ``torch.export``;
    ``graph.metadata["module"]`` is the module itself. Raises UnsupportedOperatorError for operators that provenn
    cannot represent, with the module's path and the line of code, ModelError where it cannot be exported, InputError
    where an example does not fit.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> [node.operator for node in read_module(net, torch.zeros(1, 4)).nodes]
    ['input', 'linear', 'relu', 'linear']
    """
    for place, example in enumerate(examples):
        if not isinstance(example, Tensor):
            raise InputError(
                f"read_module got {type(example).__name__} as example {place}, expected a tensor for every input"
            )
        if example.dtype not in _TYPES:
            raise InputError(
                f"read_module got example {place} of type {type_name(example.dtype)}, expected float32 or float64: "
                "convert the module with module.float()"
            )
    graph = _Reader(module, examples).read()
    _compare(graph, module, examples)
    return graph


class _Reader:
    def __init__(self, module: torch.nn.Module, examples: tuple[Tensor, ...]):
        self.module, self.source = module, f"module {type(module).__name__}"
        self.builder = Builder()
        self.values: dict[str, Any] = {}
        try:
            self.program = _functional(_exported(module, examples))
        except (ModelError, InputError):
            raise
        except Exception as error:  # torch.export raises errors of many kinds
            text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ModelError(
                f"{self.source}: torch.export cannot trace it for inputs of shapes "
                f"{[list(e.shape) for e in examples]} ({type(error).__name__}: {text[:300]}); check the shapes, and "
                "use no Python condition on a tensor's value in forward"
            ) from error

    def read(self) -> Graph:
        nodes = list(self.program.graph.nodes)
        inputs = self._placeholders(nodes)
        for node in nodes:
            if node.op == "call_function" and node.users:
                self._apply(node)
            elif node.op == "get_attr":
                self._constant(node.name, node.target, _attribute(self.program.graph_module, node.target))
        outputs = self._outputs(nodes[-1])
        whole = settle_partial(self.builder.nodes, self.builder.coordinate_nodes, outputs)
        made, inputs, outputs = simplify(whole, inputs, outputs)
        metadata = {"name": type(self.module).__name__, "symbolic": (), "module": self.module}
        return Graph(tuple(made), tuple(inputs), tuple(outputs), "", metadata)

    # ------------------------------------------------------------------------------------ ends

    def _placeholders(self, nodes: list[Any]) -> list[int]:
        """Weights become constants, the others inputs, whose values are returned."""
        signature, inputs = self.program.graph_signature, []
        specs = {spec.arg.name: spec for spec in signature.input_specs}
        for spec in signature.output_specs:
            if spec.kind.name not in ("USER_OUTPUT", "LOSS_OUTPUT"):
                raise ModelError(
                    f"{self.source}: changes {spec.target or 'a tensor'} whenever it runs, so it is no fixed function; "
                    "call module.eval() first, or keep no state in forward"
                )
        for node in nodes:
            if node.op != "placeholder":
                continue
            spec = specs[node.name]
            if spec.kind.name != "USER_INPUT":
                known = self.program.state_dict if spec.target in self.program.state_dict else self.program.constants
                self._constant(node.name, spec.target, known.get(spec.target))
                continue
            value = node.meta.get("val")
            if not isinstance(value, Tensor):
                raise ModelError(
                    f"{self.source}: its argument {node.name!r} is no tensor; make it a part of the module"
                )
            self.builder.name, self.builder.origin = node.name, f"input {node.name!r}"
            made = self.builder.emit("input", (), tuple(value.shape), type_name(value.dtype))
            self.values[node.name] = made
            inputs.append(made.index)
        return inputs

    def _constant(self, name: str, target: str, tensor: Any) -> None:
        if not isinstance(tensor, Tensor):
            self.values[name] = tensor
            return
        if tensor.dtype not in _TYPES:
            raise ModelError(
                f"{self.source}: {target} has type {type_name(tensor.dtype)}; convert the module with module.float()"
            )
        array = tensor.detach().to("cpu").contiguous().numpy().copy()
        if not is_finite(array):
            raise ModelError(f"{self.source}: {target} contains NaN or infinity, mend the module's weights")
        self.values[name] = Constant(array)

    def _outputs(self, node: Any) -> list[int]:
        found = []
        for place, one in enumerate(torch.utils._pytree.tree_leaves(node.args)):
            operand = self.values.get(getattr(one, "name", ""))
            if not isinstance(operand, Value | Constant):
                raise ModelError(f"{self.source}: its output {place} is no tensor; return tensors only")
            self.builder.name, self.builder.origin = f"output_{place}", f"output {place}"
            if isinstance(operand, Constant):
                operand = self.builder.constant(operand)
            elif self.builder.node(operand).scalar_type != operand.scalar_type:
                operand = self.builder.emit("reshape", (operand,), operand.shape, operand.scalar_type)
            found.append(operand.index)
        if not found:
            raise ModelError(f"{self.source}: has no output; return a tensor")
        return found

    # ------------------------------------------------------------------------------------ nodes

    def _apply(self, node: Any) -> None:
        if node.target is operator.getitem:
            several, place = self.values[node.args[0].name], node.args[1]
            if place >= len(several):
                title = self._call(node.args[0]).title
                raise UnsupportedOperatorError(
                    f"{self.source}: unsupported {title}: its result {place} is not read; use the first one alone"
                )
            self.values[node.name] = several[place]
            return
        call = self._call(node)
        self.builder.name, self.builder.origin = node.name, call.title
        try:
            found = self._lowered(call)
        except ModelError as error:
            kind = type(error)
            raise kind(f"{self.source}: {error}") from error
        except MISFITS as error:
            raise ModelError(f"{self.source}: {call.title}: its arguments do not fit ({error})") from error
        several = isinstance(node.meta.get("val"), tuple | list)
        checked = [self._checked(call, one, place) for place, one in enumerate(found[: len(call.results)])]
        self.values[node.name] = checked if several else checked[0]

    def _call(self, node: Any) -> Call:
        title = _title(node)
        if not isinstance(node.target, torch._ops.OpOverload):
            raise UnsupportedOperatorError(
                f"{self.source}: unsupported {title}: control flow has no graph; use torch.where, or a fixed number "
                "of steps"
            )
        if _changes(node):
            raise ModelError(f"{self.source}: {title}: changes a tensor in place that others read; compute a new one")
        schema = node.target._schema
        arguments: dict[str, Any] = {}
        for place, argument in enumerate(schema.arguments):
            if place < len(node.args):
                value = node.args[place]
            else:
                value = node.kwargs.get(argument.name, argument.default_value)
            arguments[argument.name] = self._argument(value)
        meta = node.meta.get("val")
        tensors = [one for one in (meta if isinstance(meta, tuple | list) else [meta]) if isinstance(one, Tensor)]
        if any(not isinstance(n, int) for one in tensors for n in one.shape):
            raise UnsupportedOperatorError(
                f"{self.source}: unsupported {title}: the shape of its result depends on the values; use torch.where"
            )
        results = [(tuple(one.shape), type_name(one.dtype)) for one in tensors]
        name = schema.name.split("::")[-1]
        name = name[:-1] if name.endswith("_") and not name.endswith("__") else name
        return Call(node.target, name, title, arguments, results, self.builder)

    def _argument(self, value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            return self.values[value.name]
        if isinstance(value, list | tuple):
            return [self._argument(one) for one in value]
        return value

    def _lowered(self, call: Call) -> list[Operand]:
        lowering = LOWERINGS.get(call.name)
        if lowering is None and torch.Tag.nondeterministic_seeded in call.operator.tags:
            call.unsupported("it is random", "call module.eval() first, or make the random tensor a part of the module")
        exact = all(np.dtype(kind).kind in "iub" for _, kind in call.results)
        operands = [x for x in torch.utils._pytree.tree_leaves(call.arguments) if isinstance(x, Constant)]
        exact = exact and all(x.real is None for x in operands)
        if all(is_constant(x) for x in call.arguments.values()) and (exact or not operands):
            return call.computed()
        if lowering is None:
            near = get_close_matches(call.name, LOWERINGS, 3, 0.75)
            known = f"supported with such a name: {', '.join(near)}; " if near else ""
            call.unsupported(
                "provenn has no such operator", f"{known}write it with supported operators (docs/operators.md)"
            )
        found = lowering(call)
        return found if isinstance(found, list) else [found]

    def _checked(self, call: Call, found: Operand, place: int) -> Operand:
        """The result, if it has the shape that torch gives it, in torch's element type."""
        shape, kind = call.results[place]
        if found.shape != shape:
            raise ModelError(
                f"{self.source}: {call.title}: was read with shape {list(found.shape)} where torch has {list(shape)}; "
                "this is a fault of provenn, report it"
            )
        if found.scalar_type == kind:
            return found
        if isinstance(found, Value) and np.dtype(kind).kind == "f":
            return Value(found.index, shape, kind)
        if isinstance(found, Constant) and np.dtype(kind).kind == "f":
            real = found.value.astype(np.float64)
            return Constant(found.array.astype(kind), real, found.radius)
        return call.cast(found, kind)


def example_of(module: torch.nn.Module, shape: Sequence[int]) -> Tensor:
    """A tensor of zeros of that shape, in the element type of the module's weights, or of its buffers if it has none.

    Raises InputError where those are of several types.
    """
    floats = [[p for p in own if p.dtype.is_floating_point] for own in (module.parameters(), module.buffers())]
    own = floats[0] or floats[1]
    types = sorted({str(p.dtype).removeprefix("torch.") for p in own})
    if len(types) > 1:
        raise InputError(
            f"module {type(module).__name__}: has weights of types {', '.join(types)}, so which one its input is of is "
            "open: pass provenn.bounds.read_module(module, example)"
        )
    return torch.zeros(tuple(shape), dtype=own[0].dtype, device=own[0].device) if own else torch.zeros(tuple(shape))


def _compare(graph: Graph, module: torch.nn.Module, examples: tuple[Tensor, ...]) -> None:
    """Raise ModelError where the module computes something else than its graph at most of a few random inputs.

    Export is not always faithful: it takes dropout's result in evaluation for a copy, for instance, which torch itself
    does not make. Once in a while a jump between two roundings is no fault; at most inputs it would be.
    """
    generator = torch.Generator().manual_seed(0)
    worst = []
    for _ in range(_POINTS):
        inputs = [
            torch.randn(x.shape, generator=generator).to(x) if x.is_floating_point() else x.clone() for x in examples
        ]
        try:
            with torch.no_grad():
                theirs = torch.utils._pytree.tree_leaves(module(*[x.clone() for x in inputs]))
        except Exception:  # noqa: BLE001 (a module may refuse what is drawn at random)
            return
        mine = evaluate(graph, [x.to("cpu", torch.float64).unsqueeze(0) for x in inputs])
        worst.append(max(_apart(one[0], other) for one, other in zip(mine, theirs, strict=True)))
    if sorted(worst)[_POINTS // 2] > _TOLERANCE:
        raise ModelError(
            f"module {type(module).__name__}: computes something else than what torch.export makes of it (outputs "
            f"differ by {min(worst):.3g} of their size); change no tensor in place, or report it"
        )


def _apart(mine: Tensor, theirs: Tensor) -> float:
    """The largest difference of finite elements, each as a share of itself or of 1."""
    theirs = theirs.detach().to("cpu", torch.float64)
    finite = torch.isfinite(mine) & torch.isfinite(theirs)
    if not bool(finite.any()):
        return 0.0
    return float(((mine - theirs)[finite].abs() / (1 + theirs[finite].abs())).max())


def _exported(module: torch.nn.Module, examples: tuple[Tensor, ...]) -> Any:
    if not hasattr(torch.export, "default_decompositions"):
        raise InputError(f"modules need torch 2.6 or newer, this is {torch.__version__}: export to ONNX instead")
    with _quietly():
        return torch.export.export(module, examples, strict=False)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's warnings about its own future, and without its log of what it raises as well."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def _functional(program: Any) -> Any:
    """The program without what has no lowering or changes tensors in place, decomposed where torch knows how.

    What has one is kept whole: a softplus is tighter than its parts.
    """
    nodes = [n for n in program.graph.nodes if n.op == "call_function" and (n.users or _mutates(n))]
    if all(_is_known(node) and not _changes(node) for node in nodes):
        return program
    with _quietly():
        table = torch.export.default_decompositions()
        for key in [key for key in table if _short(key) in LOWERINGS]:
            del table[key]
        return program.run_decompositions(table)


def _short(target: Any) -> str:
    return target._schema.name.split("::")[-1] if isinstance(target, torch._ops.OpOverload) else ""


def _is_known(node: Any) -> bool:
    name = _short(node.target)
    made = bool(name) and not node.all_input_nodes  # from numbers alone: torch computes it
    return made or node.target is operator.getitem or name in LOWERINGS or name.removesuffix("_") in LOWERINGS


def _mutates(node: Any) -> bool:
    """Whether a node writes into a tensor; a tensor that is detached in place keeps its elements."""
    changes = isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
    return changes and _short(node.target) != "detach_"


def _changes(node: Any) -> bool:
    """Whether a node changes a tensor that something else may read.

    It does not where that tensor was made by an operator that always makes a new one, and nothing else reads it.
    """
    if not _mutates(node):
        return False
    written = [a for a in node.target._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if len(written) != 1 or written[0] is not node.target._schema.arguments[0]:
        return True
    changed = node.args[0]
    if not isinstance(changed, torch.fx.Node) or len(changed.users) != 1:
        return True
    return _changes(changed) if _mutates(changed) else _short(changed.target) not in _FRESH


def _title(node: Any) -> str:
    """How messages name a node: the operator, the module's path, and the line of code."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next((value[0] for value in reversed(list(stack.values())) if value[0]), "")
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").strip().splitlines()]
    code = f": {lines[-1][:80]}" if lines else ""
    return f"{_short(node.target) or node.target} ({f'in {path}' if path else 'in forward'}{code})"


def _attribute(module: Any, target: str) -> Any:
    for name in target.split("."):
        module = getattr(module, name)
    return module
