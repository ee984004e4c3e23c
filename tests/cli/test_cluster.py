"""`provenn bench --cluster`: a real local cluster of two nodes, one of which is lost."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provenn.errors import InputError
from provenn.specs import ResultRow
from provenn.verifier import batch, cluster, nursery

from .conftest import DRIVER
from .test_bench import Recorder, family, results

pytestmark = pytest.mark.skipif(not nursery.available(), reason="forks on Linux")


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A head without a CPU, and two nodes of one."""
    ray = pytest.importorskip("ray")
    utilities = pytest.importorskip("ray.cluster_utils")
    made = utilities.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.pair = [made.add_node(num_cpus=1) for _ in range(2)]
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_lost_node_costs_nothing(tmp_path: Path, nodes: Any) -> None:
    names = [f"{verdict}.{number}" for number in range(3) for verdict in ("unsat", "sleepy", "refused", "sat")]
    folder, output = family(tmp_path / "toy", *names), str(tmp_path / "r.csv")
    assert cluster.connect(nodes.address) == 2

    class Losing(Recorder):
        def finished(self, row: ResultRow, error: str, ahead: float) -> None:
            super().finished(row, error, ahead)
            if len(self.rows) == 4:  # both nodes are at work
                nodes.remove_node(nodes.pair[0], allow_graceful=False)

    view = Losing()
    launcher = functools.partial(cluster.Cluster, command=(sys.executable, DRIVER, "nursery"))
    rows = batch.run(str(folder), output, batch.Plan(jobs=2, threads=1, launcher=launcher), view)
    words = {"sleepy": "unknown", "refused": "error"}
    expected = {name: words.get(name.partition(".")[0], name.partition(".")[0]) for name in names}
    assert results(rows) == expected and len(rows) == len(names)
    assert view.errors.keys() == {f"onnx/refused.{number}.onnx" for number in range(3)}


def test_no_cluster_is_one_line() -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="cannot connect"):
        cluster.connect("nowhere:no")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"provenn\[cluster\]"):
        cluster.connect("auto")
