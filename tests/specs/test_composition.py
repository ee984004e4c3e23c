"""How the tensors of several networks lie in two flat vectors: hand-computed."""

import numpy as np

from provenn.specs import Composition, Network, Tensor


def test_layout():
    first = Network(
        "f",
        None,
        (Tensor("A", "real", (2,)), Tensor("B", "real", ())),
        (Tensor("H", "real", (3,), "relu"),),
        (Tensor("P", "real", (1, 2)),),
    )
    second = Network("g", ("equal-to", "f"), (Tensor("C", "real", (2, 1)),), (), (Tensor("Q", "real", ()),))
    found = Composition((first, second), "2.0", np.array([1, 3]), ((4, 6), (7, 7)))
    assert [(tensor.name, start) for _, tensor, start in found.inputs] == [("A", 0), ("B", 2), ("C", 3)]
    assert [(network.name, tensor.name, start) for network, tensor, start in found.outputs] == [
        ("f", "H", 0),
        ("f", "P", 3),
        ("g", "Q", 5),
    ]
    assert (found.input_count, found.output_count, found.column_count) == (5, 6, 10)
    assert found.input_slice(second.inputs[0]) == slice(3, 5)
    assert found.column_slice(first.outputs[0]) == slice(3, 5)
    assert [found.input_name(k) for k in range(5)] == ["A[0]", "A[1]", "B", "C[0,0]", "C[1,0]"]
    names = ["H[0]", "H[1]", "H[2]", "P[0,0]", "P[0,1]", "Q", "A[1]", "C[0,0]", "P[0,1]*A[1]", "C[0,0]*C[0,0]"]
    assert [found.column_name(k) for k in range(10)] == names
