"""What a plan refuses."""

from __future__ import annotations

import numpy as np
import pytest

from provenn.bounds.graph import Graph, Node
from provenn.bounds.propagate.plan import Plan
from provenn.errors import InputError


@pytest.mark.parametrize(("operator", "refused"), [("leaky_relu", True), ("prelu", False)])
def test_a_concave_leaky_relu_is_refused(operator: str, refused: bool) -> None:
    """Its lines would leave out the offset of the lower one."""
    nodes = [
        Node("input", (), (2,)),
        Node(operator, (0,), (2,), {"slope": np.array(1.5)}),
    ]
    graph = Graph(nodes, [0], [1])
    if refused:
        with pytest.raises(InputError, match="prelu"):
            Plan(graph)
    else:
        Plan(graph)
