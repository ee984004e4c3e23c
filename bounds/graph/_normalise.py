"""Quotients of a value and a sum over it: softmax written out, and norms, whose image is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from provenn.bounds.graph import _constants as constants
from provenn.bounds.graph._builder import positions
from provenn.bounds.graph._constants import Constant
from provenn.bounds.graph._graph import Node
from provenn.bounds.graph._recognise import Match, Reader


def _source(reader: Reader, index: int) -> tuple[int, np.ndarray]:
    """Where a value's elements come from: a value that is not just moved, and positions in it (-1 is 0)."""
    node = reader.nodes[index]
    places = positions(node.shape)
    while node.operator in ("index", "reshape"):
        if node.operator == "index":
            table = node.attributes["indices"].reshape(-1)
            places = np.where(places < 0, -1, table[np.maximum(places, 0)])
        index = node.inputs[0]
        node = reader.nodes[index]
    return index, places


def _sum_over(reader: Reader, index: int, shape: tuple[int, ...]) -> tuple[Node, int] | None:
    """A value that repeats, in this shape, sums over some axes of another value of it: the sum and that value."""
    source, places = _source(reader, index)
    node = reader.nodes[source]
    if node.operator != "sum" or reader.nodes[node.inputs[0]].shape != shape:
        return None
    kept = tuple(1 if axis in node.attributes["axes"] else n for axis, n in enumerate(shape))
    return (node, node.inputs[0]) if np.array_equal(places, np.broadcast_to(positions(kept), shape)) else None


def as_softmax(reader: Reader, node: Node) -> Match | None:
    """``exp(x) / sum exp(x)`` over one axis, where x may be less something that is equal along the axis."""
    above, below = node.inputs
    argument = reader.operand(above, "exp")
    found = None if argument is None else _sum_over(reader, below, node.shape)
    if argument is None or found is None or found[1] != above or len(found[0].attributes["axes"]) != 1:
        return None
    axis = int(found[0].attributes["axes"][0])
    less = reader.nodes[argument]
    if less.operator == "sub":
        _, places = _source(reader, less.inputs[1])
        if (places == places.take([0], axis)).all():
            argument = less.inputs[0]
    return Match("softmax", argument, attributes={"axis": axis})


def as_bounded_quotient(reader: Reader, node: Node) -> Node | None:
    """``x / (k sqrt(m sum x^2 + e) + d)`` is at most ``1 / (k sqrt m)`` (e, d >= 0), ``x / (m sum |x| + e)`` ``1 / m``.

    The quotient stays; its image becomes an attribute, with which its interval is intersected. One of e and d has to be
    positive: where all x are 0 the quotient would be no number, of which a comparison makes one again.
    """
    if "image" in node.attributes:
        return None
    above, below = node.inputs
    source, places = _source(reader, below)
    outer = reader.affine(source)
    if not _enlarges(outer.scale, outer.shift):
        return None
    root = reader.operand(outer.source, "sqrt")
    inner = outer if root is None else reader.affine(root)
    if not _enlarges(inner.scale, inner.shift):
        return None
    total = reader.nodes[inner.source]
    if total.operator != "sum":
        return None
    term = reader.nodes[total.inputs[0]]
    fits = (
        term.operator == "pow" and term.attributes["exponent"] == 2.0 if root is not None else term.operator == "abs"
    )
    axes = total.attributes["axes"]
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(term.shape))
    if not fits or term.inputs[0] != above or reader.nodes[inner.source].size != int(np.prod(kept)):
        return None
    if not np.array_equal(places, np.broadcast_to(positions(kept), node.shape)):
        return None
    scale = outer.scale if root is None else constants.multiply(outer.scale, constants.square_root(inner.scale))
    if inner.shift is None and outer.shift is None:
        return None
    least = float(scale.value) - (0.0 if scale.radius is None else float(scale.radius))
    if not least > 0:
        return None
    most = 1 / least * (1 + 2.0**-40)
    return replace(node, attributes={**node.attributes, "image": (-most, most)})


def _enlarges(scale: Constant, shift: Constant | None) -> bool:
    """A positive factor and no shift that may be negative or 0."""
    if not scale.value > (0.0 if scale.radius is None else scale.radius):
        return False
    return shift is None or bool(shift.value > (0.0 if shift.radius is None else shift.radius))
