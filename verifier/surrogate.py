"""Differentiable evaluation for attacks: jumps keep their values and get the derivative of a smooth stand-in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from provenn.bounds.propagate.coefficients import flattened
from provenn.bounds.propagate.plan import Plan


class _StraightThrough(torch.autograd.Function):
    """The given value forward, ``slope`` times the incoming derivative backward (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None, None


def _bell(x: Tensor) -> Tensor:
    """Derivative of ``x / (s + |x|)`` with s the typical size of a sample's elements.

    Its long tails leave a derivative where a hard window would cut every path to the input.
    """
    size = x.detach().abs()
    typical = flattened(size, 1).mean(1).clamp(min=torch.finfo(x.dtype).eps)
    typical = typical.view(-1, *(1,) * (x.dim() - 1))
    return typical / (typical + size).square()


def _jump(x: Tensor, value: Tensor) -> Tensor:
    return _StraightThrough.apply(x, value, _bell(x))


def _stairs(x: Tensor, value: Tensor) -> Tensor:
    return _StraightThrough.apply(x, value, torch.ones_like(x))


def _comparison(sign: float) -> Callable[..., Tensor]:
    def surrogate(value: Tensor, a: Tensor, b: Tensor) -> Tensor:
        difference = sign * (a - b)
        return _StraightThrough.apply(difference, value.to(difference.dtype), 0.5 * _bell(difference))

    return surrogate


_UNARY = {"sign": _jump, "floor": _stairs, "ceil": _stairs, "round": _stairs, "cast": _stairs}
_BINARY = {"greater": _comparison(1.0), "less": _comparison(-1.0)}
_NO_DERIVATIVE = {"equal", "argmax", "one_hot", "gather", "scatter_nd", "where", "range"}


class Surrogate:
    """Evaluates a plan's graph on flat inputs ``[n, inputs]``; autograd differentiates through its jumps.

    The values are those of the operators. Only searches may use the derivatives: at a jump they are invented.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        graph = plan.graph
        self.input, self.output = graph.inputs[0], graph.outputs[0]
        self.input_shape = graph.nodes[self.input].shape
        operators = {node.operator for node in graph.nodes}
        self.jumps = bool(operators & (_UNARY.keys() | _BINARY.keys() | _NO_DERIVATIVE))
        needed = self._needed()
        self._order = [i for i in needed if i != self.input]
        self._released = self._last_reads(self._order)
        element = torch.finfo(plan.dtype).bits // 8
        # what autograd keeps: about two tensors per value
        self.bytes_per_point = 2 * element * sum(plan.size(i) for i in needed)

    def __call__(self, x: Tensor) -> Tensor:
        """Flat outputs ``[n, outputs]`` at flat inputs ``[n, inputs]``."""
        values: dict[int, Tensor] = {self.input: x.view(x.shape[0], *self.input_shape)}
        for index in self._order:
            values[index] = self._apply(index, [values[i] for i in self.plan.graph.nodes[index].inputs])
            for operand in self._released.get(index, ()):
                del values[operand]
        y = values[self.output]
        return flattened(y, 1).expand(x.shape[0], -1).to(x.dtype)

    def _apply(self, index: int, operands: list[Tensor]) -> Tensor:
        prepared = self.plan.prepared[index]
        evaluate, name = self.plan.operators[index].evaluate, prepared.node.operator
        if not torch.is_grad_enabled() or not any(operand.requires_grad for operand in operands):
            return evaluate(prepared, *operands)
        if name in _UNARY and operands[0].is_floating_point():
            with torch.no_grad():
                value = evaluate(prepared, *operands)
            return _UNARY[name](operands[0], value.to(operands[0].dtype))
        if name in _BINARY:
            with torch.no_grad():
                value = evaluate(prepared, *operands)
            return _BINARY[name](value, *operands)
        return evaluate(prepared, *operands)

    def _needed(self) -> list[int]:
        """The output and its ancestors, operands first."""
        nodes = self.plan.graph.nodes
        needed = {self.output}
        for index in range(self.output, -1, -1):
            if index in needed:
                needed.update(nodes[index].inputs)
        return sorted(needed)

    def _last_reads(self, order: list[int]) -> dict[int, list[int]]:
        """For every node the operands that nothing reads after it."""
        final = {operand: i for i in order for operand in self.plan.graph.nodes[i].inputs}
        released: dict[int, list[int]] = {}
        for operand, index in final.items():
            if operand != self.output:
                released.setdefault(index, []).append(operand)
        return released
