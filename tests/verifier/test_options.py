"""Every option of a wrong type or value is refused by its name; what a rule admits is taken."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from provenn.errors import InputError
from provenn.verifier import Options
from provenn.verifier.options import available_threads

NAMES = [field.name for field in fields(Options)]
# A value of every type that options have, and some that none has.
VALUES: list[Any] = ["5", 1.5, float("nan"), float("inf"), 10**400, -1, True, [1], object(), b"cpu", np.zeros(2), 1j]


def same(found: Any, given: Any) -> bool:
    """Equal, and of Python's own type: numpy's overflow or are refused later."""
    return found == given and type(found) in (int, float, str, bool, type(None))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", NAMES)
def test_a_value_is_taken_or_refused_by_name(name: str, value: Any) -> None:
    try:
        assert same(getattr(Options(**{name: value}), name), value)
    except InputError as error:
        assert str(error).startswith(f"Options got {name}={value!r}, expected ")


@pytest.mark.parametrize(
    ("name", "value"),
    [("timeout", "5"), ("timeout", None), ("seed", 1.5), ("seed", True), ("batch", 2.0), ("device", 3), ("verbose", 1),
     ("exact_leaves", "no"), ("threads", "all"), ("memory", "2"), ("started", "now"), ("input_split_limit", -1)],
)  # fmt: skip
def test_a_wrong_type_is_an_input_error(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"Options got {name}="):
        Options(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("timeout", 5), ("timeout", Fraction(1, 2)), ("timeout", np.float32(2)), ("seed", np.int64(3)), ("threads", None),
     ("memory", 2), ("started", 0.0), ("root_steps", 0), ("timeout", np.float16(3)), ("batch", np.uint8(200))],
)  # fmt: skip
def test_numbers_of_any_kind_are_taken(name: str, value: Any) -> None:
    assert same(getattr(Options(**{name: value}), name), value)


def test_no_more_threads_than_there_are() -> None:
    assert Options(threads=2**31 - 1).threads == available_threads()
