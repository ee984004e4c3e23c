"""Errors that users see. Every message names what failed and says what to do."""

from __future__ import annotations


class ProvennError(Exception):
    """Root of all errors provenn raises on purpose; its text is complete for a user."""


class ModelError(ProvennError):
    """The ONNX file cannot be read or is inconsistent: fix or re-export the model."""


class UnsupportedOperatorError(ModelError):
    """The network uses an operator provenn does not import: re-export without it."""


class PropertyError(ProvennError):
    """The VNN-LIB property is malformed: mend the line the message names."""


class UnsupportedPropertyError(PropertyError):
    """The VNN-LIB property is well-formed but says what provenn does not decide: write what the message names."""


class Cancelled(ProvennError):
    """The caller of a computation stopped it: nothing is wrong."""


class InputError(ProvennError):
    """A path, an option or a shape does not fit: correct the command or the call."""
