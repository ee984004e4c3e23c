"""Operators to come."""

from __future__ import annotations

from provenn.bounds.ops._operator import Operator

OPERATORS: tuple[Operator, ...] = ()
