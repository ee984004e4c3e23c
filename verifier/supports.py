"""What provenn can decide, in the words of the VNN-LIB 2 standard (section 5.4 of its document)."""

from __future__ import annotations

_THEORIES = {
    "vnnlib-versions": ("1.0", "2.1"),
    "hidden-node-theories": ("NH", "H"),
    "multiple-input-output-theories": ("SIO", "MIO"),
    "multiple-network-theories": ("SNET", "MENET", "MINET", "MNET"),
    "multiple-node-comparison-theories": ("SNC", "MNC"),
    "arithmetic-complexity-theories": ("BND", "OUTC", "LIN", "POLY"),
    "optimised-disjunctive-reasoning": ("true",),
    "serialise-assignments": ("true",),
}
_NOTE = "* unsat is proven over the real numbers with the stored weights; sat is replayed in this type"
_ELEMENT_TYPES = ("real", f"float32 {_NOTE}", f"float64 {_NOTE}")
CAPABILITIES = ("onnx-opset-versions", "onnx-element-types", "onnx-operators", *_THEORIES)


def capability(name: str) -> tuple[str, ...]:
    """The lines that answer a query, one of ``CAPABILITIES``. A note after ``*`` qualifies the word before it."""
    if name in _THEORIES:
        return _THEORIES[name]
    if name == "onnx-element-types":
        return _ELEMENT_TYPES
    from provenn.bounds.graph._onnx import HANDLERS, NEWEST_OPSET, OLDEST_OPSET

    if name == "onnx-opset-versions":
        return str(OLDEST_OPSET), str(NEWEST_OPSET)
    if name == "onnx-operators":
        return tuple(sorted(HANDLERS))
    raise ValueError(f"capability got name={name!r}, expected one of {', '.join(CAPABILITIES)}")
