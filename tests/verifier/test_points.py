"""Split points: inside the box whatever the table says, best by area, never another operator's, and never an error."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from provenn.bounds.graph._graph import Graph, Node
from provenn.bounds.ops import OPS, prepare
from provenn.bounds.propagate.plan import Plan
from provenn.errors import InputError
from provenn.verifier import Options, point_store
from provenn.verifier.point_tables import STEPS, WHOLE, Reader, best_fractions, build, child_area, key, table
from provenn.verifier.points import MIDPOINT, Points

FLOAT = torch.float64


def reader(name: str, **constants) -> Reader:
    node = Node(name, (0,), (1,), constants)
    return OPS[name], prepare(node, ((1,),), FLOAT, torch.device("cpu"))  # type: ignore[return-value]


def plan_of(*readers: tuple[str, dict], size: int = 1) -> Plan:
    """One input that all readers read; their sum is the output."""
    nodes = [Node("input", (), (size,))]
    for name, constants in readers:
        nodes.append(Node(name, (0, 0) if name == "mul" else (0,), (size,), constants))
    return Plan(Graph(nodes, (0,), (len(nodes) - 1,)), torch.float32)


def at(
    points: Points, lower: list[float], upper: list[float], elements: list[int] | None = None
) -> list[float]:
    chosen = torch.tensor(elements or [0] * len(lower))
    return points.at(0, chosen, torch.tensor(lower), torch.tensor(upper)).tolist()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a package without tables."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(point_store, "shipped", dict)
    return tmp_path / "provenn" / "points"


def total(
    readers: list[Reader], lower: torch.Tensor, upper: torch.Tensor, point: torch.Tensor
) -> torch.Tensor:
    return child_area(readers, lower, point) + child_area(readers, point, upper)


SHIPPED = (
    [reader("sigmoid")],
    [reader("exp")],
    [reader("sin")],
    [reader("sin"), reader("cos")],
    [reader("pow", exponent=3.0)],
    [reader("elu", alpha=np.array(1.0))],
    [reader("log")],
    [reader("reciprocal")],
)


@pytest.mark.parametrize("readers", SHIPPED, ids=lambda readers: str(key(readers)))
def test_a_shipped_table_finds_the_point_of_least_area(readers: list[Reader]) -> None:
    """Of the area that the best point saves against the middle a third at most is lost (most where minima jump)."""
    name = key(readers)
    assert name in point_store.shipped(), "benchmarks/point_tables.py builds the file"
    random = np.random.default_rng(0)
    width = torch.from_numpy(10 ** random.uniform(-0.5, 1.0, 200))
    lower = torch.from_numpy(random.uniform(-5, 5, 200))
    if name in ("log", "reciprocal"):
        lower = lower.abs() + 0.01
    upper = lower + width
    found = table(readers)
    assert found is not None
    fraction = found.at(lower, upper)
    assert ((fraction > 0) & (fraction < 1)).all()
    area = total(readers, lower, upper, lower + fraction * width)
    least = total(readers, lower, upper, lower + best_fractions(readers, lower, upper, 99) * width)
    middle = total(readers, lower, upper, lower + 0.5 * width)
    middle = middle.clamp(min=1e-9)
    saved, lost = ((middle - least) / middle).mean(), ((area - least) / middle).mean()
    assert lost < 0.35 * saved + 1e-3
    assert saved > 0.05 or name == "cos+sin"


def test_the_point_of_an_exponential_is_nearer_to_its_steep_end() -> None:
    """Children of areas a^3 and b^3 e^(a / 2) (nearly): the right one must be the narrower."""
    (point,) = at(Points(plan_of(("exp", {}))), [-1.0], [1.0])
    assert 0.05 < point < 0.15


def test_a_parabola_is_halved_anywhere(cache: Path) -> None:
    assert at(Points(plan_of(("pow", {"exponent": 2.0}))), [-1.0, 3.0], [5.0, 4.0]) == [2.0, 3.5]


def test_break_points_come_first() -> None:
    clip = ("clip", {"lower": np.array(0.0), "upper": np.array(6.0)})
    points = Points(plan_of(clip, ("sigmoid", {})))
    assert at(points, [-1.0, -1.0, 5.0], [4.0, 20.0, 9.0]) == [0.0, 6.0, 6.0]
    assert at(Points(plan_of(("relu", {}))), [-3.0, 1.0], [1.0, 3.0]) == [0.0, 2.0]
    slopes = ("clip", {"lower": np.array([0.0, 1.0]), "upper": None})
    assert at(Points(plan_of(slopes, size=2)), [-2.0, -2.0], [3.0, 3.0], [0, 1]) == [0.0, 1.0]


def test_a_factor_is_split_at_zero() -> None:
    assert at(Points(plan_of(("mul", {}))), [-3.0, 1.0], [1.0, 3.0]) == [0.0, 2.0]


def test_midpoints_on_demand() -> None:
    assert at(Points(plan_of(("exp", {})), MIDPOINT), [-1.0], [3.0]) == [1.0]
    with pytest.raises(InputError, match="split_points"):
        Options(split_points="nowhere")


@pytest.mark.parametrize("name", ["sigmoid", "sin", "reciprocal", "log", "exp", "gelu"])
def test_a_point_is_finite_and_strictly_inside(name: str) -> None:
    """Boxes beyond every grid, tiny, huge, infinite, outside of the operator's domain."""
    points = Points(plan_of((name, {})))
    ends = [
        -torch.inf,
        -1e38,
        -1e3,
        -100.0,
        -1.0,
        -1e-30,
        0.0,
        1e-30,
        1e-3,
        1.0,
        1.000001,
        99.0,
        1e4,
        3e38,
        torch.inf,
    ]
    pairs = torch.tensor([(a, b) for a in ends for b in ends if a < b])
    found = points.at(0, torch.zeros(len(pairs), dtype=torch.int64), pairs[:, 0], pairs[:, 1])
    assert torch.isfinite(found).all()
    assert ((found > pairs[:, 0]) & (found < pairs[:, 1])).all()
    next_ = torch.nextafter(torch.tensor([1.0, 2.0]), pairs.max())
    close = torch.tensor([1.0, 2.0]), torch.nextafter(next_, pairs.max())
    found = points.at(0, torch.zeros(2, dtype=torch.int64), *close)
    assert ((found >= close[0]) & (found <= close[1])).all()


def test_a_table_of_nonsense_gives_points_inside_all_the_same(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (0, STEPS):
        monkeypatch.setattr(point_store, "shipped", lambda v=value: {"exp": np.full(WHOLE, v, np.uint16)})
        (point,) = at(Points(plan_of(("exp", {}))), [-1.0], [1.0])
        assert -1 < point < 1


def test_constants_are_part_of_the_key() -> None:
    assert key([reader("elu", alpha=np.array(1.0))]) != key([reader("elu", alpha=np.array(1.5))])
    assert key([reader("elu", alpha=np.array(1.0))]) != key(
        [reader("elu", alpha=np.array(np.nextafter(1.0, 2)))]
    )
    assert key([reader("pow", exponent=3.0)]) != key([reader("pow", exponent=5.0)])
    assert (
        key([reader("cos"), reader("sin")]) == key([reader("sin"), reader("cos"), reader("sin")]) == "cos+sin"
    )
    assert key([reader("celu", alpha=np.array([1.0, 2.0]))]) is None
    assert key([reader("celu", alpha=np.array([2.0, 2.0]))]) == key([reader("celu", alpha=np.array(2.0))])


def test_elements_with_constants_of_their_own_are_searched_directly() -> None:
    alphas = np.array([0.1, 40.0])
    points = Points(plan_of(("celu", {"alpha": alphas}), size=2))
    found = at(points, [-10.0, -10.0], [1.0, 1.0], [0, 1])
    for alpha, point in zip(alphas, found, strict=True):
        alone = [reader("celu", alpha=np.array(alpha))]
        box = torch.tensor([-10.0], dtype=FLOAT), torch.tensor([1.0], dtype=FLOAT)
        chosen, middle = torch.tensor([point], dtype=FLOAT), torch.tensor([-4.5], dtype=FLOAT)
        assert total(alone, *box, chosen) <= total(alone, *box, middle)
    assert abs(found[0] - found[1]) > 1


COMBINATION = (("pow", {"exponent": 3.0}), ("exp", {}))


def test_another_combination_is_built_once_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = at(Points(plan_of(*COMBINATION)), [-2.0], [3.0])
    (file,) = cache.iterdir()
    monkeypatch.setattr("provenn.verifier.point_tables.build", None)  # would fail
    assert at(Points(plan_of(*COMBINATION)), [-2.0], [3.0]) == found
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    monkeypatch.setattr(point_store, "shipped", dict)
    for content in (
        b"",
        file.read_bytes()[:-1],
        b"x" * 40,
        file.read_bytes() + b"..",
        bytes(len(file.read_bytes())),
    ):
        file.write_bytes(content)
        assert at(Points(plan_of(*COMBINATION)), [-2.0], [3.0]) == found
        assert point_store.cached("exp+pow(exponent=3.0)", (WHOLE,)) is not None, "replaced by a good one"


def test_a_table_is_not_taken_for_anothers(cache: Path) -> None:
    point_store.keep("a", np.zeros(WHOLE, np.uint16))
    (file,) = cache.iterdir()
    file.rename(point_store._path("b"))
    assert point_store.cached("b", (WHOLE,)) is None
    point_store.keep("b", np.zeros((1, 2, 2), np.uint16))
    assert point_store.cached("b", (WHOLE,)) is None


@pytest.mark.parametrize("place", ["a file", "relative", "nowhere"])
def test_a_cache_that_cannot_be_used_is_no_error(
    place: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("")
    folder = {"a file": str(tmp_path / "taken"), "relative": "some/where", "nowhere": "/proc/nowhere"}[place]
    monkeypatch.setenv("XDG_CACHE_HOME", folder)
    monkeypatch.setenv("HOME", str(tmp_path / "taken"))
    monkeypatch.chdir(tmp_path)
    point_store.keep("a", np.zeros(WHOLE, np.uint16))
    assert point_store.cached("a", (WHOLE,)) is None
    assert not (tmp_path / "some").exists()


def test_a_full_disk_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    point_store.keep("a", np.zeros(WHOLE, np.uint16))
    assert list(cache.iterdir()) == []


def _keep(value: int) -> None:
    for _ in range(50):
        point_store.keep("a", np.full(WHOLE, value, np.uint16))
        found = point_store.cached("a", (WHOLE,))
        assert found is not None and (found == found.flat[0]).all()


def test_processes_may_keep_the_same_table_at_once(cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_keep, args=(value,)) for value in (1, 2, 3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(cache.iterdir())) == 1


def test_a_built_table_is_a_table_of_fractions() -> None:
    found = build([reader("tanh")])
    assert found.shape == WHOLE and found.dtype == np.uint16
    mirrored = STEPS - found[:, ::-1].astype(int)
    assert np.median(np.abs(found - mirrored)) < 0.01 * STEPS, (
        "an odd function's table is its own mirror image"
    )
