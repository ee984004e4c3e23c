"""Starting lines and slope ranges that are taken over from another domain."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from provenn.bounds.ops import OPS, relaxation
from provenn.bounds.ops._operator import Prepared
from provenn.bounds.propagate.starts import Starts

NAMES = ("gelu", "tanh", "sin", "sigmoid", "exp", "softplus", "relu")
DOMAINS, SIZE = 6, 40


def constants(**tensors: torch.Tensor) -> Prepared:
    return Prepared(None, ((SIZE,),), tensors, torch.float64, torch.device("cpu"))  # type: ignore[arg-type]


def boxes(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes ``[domains, size]`` with a point in each, of which every domain has two elements of its own."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    middle, width = 4 * draw(1, SIZE) - 2, 2 * draw(1, SIZE)
    lower, upper = (middle - width).repeat(DOMAINS, 1), (middle + width).repeat(DOMAINS, 1)
    for domain in range(1, DOMAINS):
        chosen = torch.randint(SIZE, (2,), generator=generator)
        lower[domain, chosen[0]] += 0.3 * width[0, chosen[0]]
        upper[domain, chosen[1]] -= 0.4 * width[0, chosen[1]]
    return lower, lower + 0.4 * (upper - lower), upper


@pytest.mark.parametrize("name", NAMES)
def test_lines_hold_and_ranges_are_those_of_every_domain(name: str) -> None:
    operator, prepared = OPS[name], constants()
    starts = Starts(SimpleNamespace(operators=[operator], prepared=[prepared]))  # type: ignore[arg-type]
    for seed in range(5):  # the first domain of the first batch is remembered: later batches differ everywhere
        lower, point, upper = boxes(seed % 3)
        kl, bl, ku, bu = starts.lines(0, lower, upper)
        for share in torch.linspace(0, 1, 65, dtype=torch.float64):
            x = lower + share * (upper - lower)
            y = operator.evaluate(prepared, x)
            assert (kl * x + bl <= y + 1e-12).all() and (ku * x + bu >= y - 1e-12).all()
        for domain in range(DOMAINS):
            row = slice(domain, domain + 1)
            alone = relaxation.lines(operator, prepared, lower[row], upper[row])
            # a search for a slope ends when no element of its batch gains by it
            middle = 0.5 * (lower + upper)[row]
            found = (kl[row] - ku[row]) * middle + bl[row] - bu[row]
            assert torch.allclose(found, (alone[0] - alone[2]) * middle + alone[1] - alone[3], rtol=3e-3, atol=1e-9)
            ranges = relaxation.slope_range(operator, prepared, lower[row], upper[row])
            for one, other in zip(starts.ranges(0, lower, upper), ranges, strict=True):
                assert torch.allclose(one.expand_as(lower)[row], other.expand_as(lower[row]), rtol=5e-3, atol=1e-9)
        both = starts.children(0, lower, point, upper)
        for side, (low, high) in enumerate(((lower, point), (point, upper))):
            kl, bl, ku, bu = (t[side * DOMAINS : (side + 1) * DOMAINS] for t in both)
            for x in (low, 0.5 * (low + high), high):
                y = operator.evaluate(prepared, x)
                assert (kl * x + bl <= y + 1e-12).all() and (ku * x + bu >= y - 1e-12).all()


def test_an_operator_that_differs_between_elements_is_asked_as_a_whole() -> None:
    slope = torch.linspace(0.1, 2.0, SIZE, dtype=torch.float64)
    prepared = constants(slope=slope)
    starts = Starts(SimpleNamespace(operators=[OPS["prelu"]], prepared=[prepared]))  # type: ignore[arg-type]
    lower, _, upper = boxes(0)
    found, expected = starts.lines(0, lower, upper), relaxation.lines(OPS["prelu"], prepared, lower, upper)
    assert all(torch.equal(a.expand_as(lower), b.expand_as(lower)) for a, b in zip(found, expected, strict=True))
