"""Bounds of random networks never pass what samples attain: facts, slopes, multipliers, clips, programs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from provenn.bounds.graph import evaluate, read_onnx
from provenn.bounds.graph.lattice import lattice
from provenn.bounds.propagate.intermediate import intermediate_boxes
from provenn.bounds.propagate.optimise import Schedule, optimise
from provenn.specs import read_query
from provenn.verifier.exact import fixed_domains, rebound_domains
from provenn.verifier.fixed import Fixed
from provenn.verifier.leaf import proven_margin
from provenn.verifier.problem import Clauses, Problem, dense_clauses
from provenn.verifier.program import Cut, Program
from provenn.verifier.rebound import Rebound
from provenn.verifier.refine import refined_facts
from provenn.verifier.root import root_facts

from ..verifier.networks import box, layers, property_text
from .networks import FAMILIES, random_network, write_onnx, write_property

SLACK = 1e-9
"""Relative: samples are evaluated in float64 and round too."""
families = pytest.mark.parametrize("family", sorted(set(FAMILIES)))


@dataclass
class Case:
    """A network with samples of its box and two clauses: a row, and a conjunction of two."""

    problem: Problem
    clauses: Clauses
    x: Tensor
    values: list[Tensor]

    @property
    def y(self) -> Tensor:
        return self.values[self.problem.output].flatten(1)

    def margins(self, clause: int) -> Tensor:
        """``row . y - threshold`` at the samples, ``[samples, rows]``."""
        return self.y @ self.clauses.rows[clause].T - self.clauses.threshold[clause]


def case(family: str, seed: int, folder, count: int = 4000) -> Case:
    """A network of a family with thresholds that a tenth of the samples violates."""
    network = random_network(seed, family)
    onnx = write_onnx(network, folder / "network.onnx")
    random = np.random.default_rng(seed)
    x = random.uniform(network.lower, network.upper, (count, len(network.lower)))
    x[: count // 4] = np.where(
        random.random((count // 4, len(network.lower))) < 0.5, network.lower, network.upper
    )
    y = network.outputs(x)
    first, second = (np.quantile(y[:, 0], 0.1), np.quantile(-y[:, 1], 0.3))
    unit = np.eye(y.shape[1])
    clauses = [
        [(unit[0], float(np.float32(first)))],
        [(unit[0], float(np.float32(first))), (-unit[1], float(np.float32(second)))],
    ]
    vnnlib = write_property(network, clauses, folder / "property.vnnlib")
    query = read_query(vnnlib, network.steps[0].size, y.shape[1], "float32")
    graph = lattice(read_onnx(onnx))
    problem = Problem(graph, query, torch.device("cpu"))
    found = dense_clauses(next(iter(query.batches(10))), problem.outputs, problem.device)
    samples = torch.from_numpy(x)
    values = evaluate(graph, [samples.view(-1, *problem.input_shape)], keep="all")
    return Case(problem, found, samples, values)


def below(bound: Tensor, truth: Tensor) -> bool:
    return bool((bound <= truth + SLACK * (1 + truth.abs())).all())


@families
@pytest.mark.parametrize("steps", [0, 5])
def test_facts_contain_samples(family: str, steps: int, tmp_path) -> None:
    made = case(family, 3, tmp_path)
    with torch.no_grad():
        facts = root_facts(
            made.problem,
            made.clauses.lower[:1],
            made.clauses.upper[:1],
            steps=steps,
            deadline=time.monotonic() + 60,
        )
    assert facts.boxes
    for value, (lower, upper) in facts.boxes.items():
        assert below(lower, made.values[value]) and below(-upper, -made.values[value]), value
        assert (lower.float().double() == lower).all() and (upper.float().double() == upper).all()


@families
@pytest.mark.parametrize("leaves", [2, 9])
def test_refined_facts_contain_samples_and_are_tighter(family: str, leaves: int, tmp_path) -> None:
    made = case(family, 4, tmp_path)
    with torch.no_grad():
        box, until = (made.clauses.lower[:1], made.clauses.upper[:1]), time.monotonic() + 60
        facts = root_facts(made.problem, *box, steps=0, deadline=until)
        refined = refined_facts(made.problem, facts, leaves=leaves, steps=2, deadline=until)
    assert refined.boxes.keys() == facts.boxes.keys()
    tighter = 0
    for value, (lower, upper) in refined.boxes.items():
        assert below(lower, made.values[value]) and below(-upper, -made.values[value]), value
        before = facts.boxes[value]
        assert (lower >= before[0]).all() and (upper <= before[1]).all()
        assert (lower.float().double() == lower).all() and (upper.float().double() == upper).all()
        tighter += int((upper - lower < before[1] - before[0]).sum())
    assert tighter


def test_enough_leaves_refine_to_the_exact_ends(tmp_path) -> None:
    """One hidden layer: with every element split, the ends of the next are minima over linear pieces."""
    random = np.random.default_rng(5)
    weights = [random.normal(size=size) for size in ((2, 5), (5, 3), (3, 1))]
    biases = [0.2 * random.normal(size=w.shape[1]) for w in weights]
    onnx = layers(tmp_path / "network.onnx", "Relu", weights, biases)
    (tmp_path / "p").write_bytes(property_text(2, 1, box([("-1", "1")] * 2), "(assert (<= Y_0 0))"))
    graph = lattice(read_onnx(onnx))
    problem = Problem(graph, read_query(tmp_path / "p", 2, 1, "float32"), torch.device("cpu"))
    until = time.monotonic() + 60
    with torch.no_grad():
        facts = root_facts(problem, *problem.hull, steps=0, deadline=until)
        refined = refined_facts(problem, facts, leaves=64, steps=60, deadline=until)
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 401, dtype=torch.float64)] * 2)
    values = evaluate(graph, [grid.view(-1, *problem.input_shape)], keep="all")
    checked = 0
    for value, (lower, upper) in refined.boxes.items():
        ends = torch.stack([values[value].amin(0), -values[value].amax(0)])
        found = torch.stack([lower[0], -upper[0]])
        crossing = (ends.amax(0) < 0) & (lower[0] < 0) & (upper[0] > 0)
        assert (found <= ends + 1e-9).all()
        assert (found > ends - 0.05)[..., crossing].all(), (value, found, ends)
        checked += int(crossing.sum())
    assert checked > 5


def fixed(made: Case) -> Fixed:
    facts = root_facts(
        made.problem, made.clauses.lower[:1], made.clauses.upper[:1], steps=0, deadline=time.monotonic() + 60
    )
    return Fixed(made.problem, made.clauses, facts, steps=6, candidates=2)


def holds(made: Case, bounder: Fixed, fields: dict[str, Tensor]) -> Tensor:
    """Which samples ``[domains, samples]`` lie in which domains."""
    columns = bounder._gather(dict(enumerate(made.values)))
    inside = torch.ones(fields["bound"].shape[0], columns.shape[0], dtype=torch.bool)
    for i in range(inside.shape[0]):
        inside[i] = ((columns >= fields["lower"][i]) & (columns <= fields["upper"][i])).all(1)
    return inside


@families
@torch.no_grad()
def test_neuron_splits_lose_no_violation(family: str, tmp_path) -> None:
    """Every violating sample stays in an open domain, whatever is split; bounds with multipliers stay below."""
    made = case(family, 5, tmp_path)
    bounder = fixed(made)
    fields = bounder.roots()
    for _ in range(6):
        fields, _ = bounder.bound(fields)
        inside = holds(made, bounder, fields)
        for i, clause in enumerate(fields["clause"].tolist()):
            if inside[i].any():
                truth = made.margins(clause)[inside[i]].amax(1).min()
                assert float(fields["bound"][i]) <= float(truth) + 1e-4 * (1 + abs(float(truth)))
        for clause in range(2):
            violating = (made.margins(clause) <= -1e-6).all(1)
            covered = inside[fields["clause"] == clause].any(0)
            assert covered[violating].all()
        ready = bounder.splittable(fields)
        if not ready.any():
            break
        split = bounder.split({k: v[ready] for k, v in fields.items()})
        fields = {k: torch.cat([v[~ready], split[k]]) for k, v in fields.items()}


@families
@torch.no_grad()
def test_multipliers_in_float64(family: str, tmp_path) -> None:
    """Optimised and random parameters alike bound the samples of a split domain."""
    made = case(family, 6, tmp_path)
    bounder = fixed(made)
    fields = bounder.roots()
    for _ in range(3):
        fields, _ = bounder.bound(fields)
        if not bool(bounder.splittable(fields).all()):
            break
        fields = bounder.split(fields)
    fields = {k: v for k, v in fields.items() if k != "parameters"}
    objective = bounder.objective(fields, torch.float64)
    inside = holds(made, bounder, fields)
    generator = torch.Generator().manual_seed(1)
    start = objective.start()
    noise = start + torch.randn(start.shape, generator=generator, dtype=torch.float64)
    noise = torch.minimum(torch.maximum(noise, objective.low), objective.high)
    for flat in (start, noise, optimise(objective, Schedule(steps=15), start=start).parameters):
        bound, _ = objective.bound(flat)
        for i, clause in enumerate(fields["clause"].tolist()):
            if inside[i].any():
                margins = made.margins(clause)[inside[i]]
                truth = margins.amin(0) + made.clauses.threshold[clause]
                if bounder.weighted:  # margins of combinations of the clause's rows
                    truth = (margins @ objective.weights(flat)[i].mT).amin(0)
                assert below(bound[i], truth)


@families
@torch.no_grad()
def test_input_splits_lose_no_violation(family: str, tmp_path) -> None:
    """Clipped and halved boxes keep every violating sample of their clause."""
    made = case(family, 7, tmp_path)
    bounder = Rebound(made.problem, made.clauses)
    fields = bounder.roots()
    for _ in range(5):
        fields, _ = bounder.bound(fields)
        free = made.x[:, made.problem.free_inputs]
        for clause in range(2):
            violating = (made.margins(clause) <= -1e-9).all(1)
            mine = fields["clause"] == clause
            inside = (free >= fields["lower"][mine][:, None]) & (free <= fields["upper"][mine][:, None])
            assert inside.all(2).any(0)[violating].all()
        fields = bounder.split(
            {k: v[:64] for k, v in fields.items()} if len(fields["bound"]) > 64 else fields
        )
        if len(fields["bound"]) > 64:
            break


@families
@torch.no_grad()
def test_programs_bound_their_domains(family: str, tmp_path) -> None:
    """What a program's duals prove is below the samples and close to its optimum."""
    made = case(family, 8, tmp_path)
    bounder = fixed(made)
    inputs = Rebound(made.problem, made.clauses)
    domains = [
        *((d, bounder.facts.magnitudes) for d in fixed_domains(bounder, bounder.roots())),
        *((d, made.problem.magnitudes) for d in rebound_domains(inputs, inputs.roots())),
    ]
    for number, (domain, magnitudes) in enumerate(domains):
        plan = made.problem.plan(torch.float64)
        found = Program(plan, made.problem.output, domain).solve({})
        assert found is not None and not found.empty
        weight = float(found.weights.sum())
        assert weight == pytest.approx(1, abs=1e-6)
        proven = proven_margin(plan, made.problem.output, domain, {}, found, magnitudes)
        truth = float(made.margins(number % 2).amax(1).min())
        assert proven <= truth + SLACK * (1 + abs(truth))
        assert proven >= found.margin - 1e-6 * (1 + abs(found.margin))


@families
@torch.no_grad()
def test_known_boxes_are_facts(family: str, tmp_path) -> None:
    """Boxes made anew under known boxes contain the samples that satisfy those."""
    made = case(family, 9, tmp_path)
    plan = made.problem.plan(torch.float64)
    inputs = made.problem.input_boxes(made.clauses.lower[:1], made.clauses.upper[:1])
    plain = intermediate_boxes(plan, inputs, magnitudes=made.problem.magnitudes)
    value = next(v for v in plan.bounded if v in plain and v != made.problem.input)
    known = {value: (plain[value][0].clamp(min=0.0), plain[value][1].clamp(min=0.0))}
    inside = (made.values[value] >= known[value][0]).flatten(1).all(1)
    boxes = intermediate_boxes(plan, inputs, magnitudes=made.problem.magnitudes, known=known)
    for index, (lower, upper) in boxes.items():
        truth = made.values[index][inside]
        assert below(lower, truth) and below(-upper, -truth), index


@families
@torch.no_grad()
def test_programs_of_cut_domains(family: str, tmp_path) -> None:
    """Cuts that a sample satisfies: nothing proven excludes it or lies above it."""
    made = case(family, 10, tmp_path)
    bounder = fixed(made)
    plan, output = made.problem.plan(torch.float64), made.problem.output
    random = np.random.default_rng(0)
    domain = list(fixed_domains(bounder, bounder.roots()))[1]
    program = Program(plan, output, domain)
    places = [(own.operand, int(e)) for own in program.relaxed.values() for e in own.elements]
    margins = made.margins(1).amax(1)
    for sample in [*margins.argsort()[:10].tolist(), *random.integers(0, len(margins), 20).tolist()]:
        cuts, inside = {}, torch.ones(len(margins), dtype=torch.bool)
        for value, element in (places[i] for i in random.permutation(len(places))[: random.integers(1, 8)]):
            z = made.values[value].flatten(1)[:, element]
            lower, upper = (float(b.flatten()[element]) for b in domain.boxes[value])
            middle = random.uniform(lower, upper)
            ends = (lower, middle) if z[sample] <= middle else (middle, upper)
            cuts[value, element] = Cut(ends, ends)
            inside &= (z >= ends[0]) & (z <= ends[1])
        found = program.solve(cuts)
        assert found is not None and inside[sample]
        proven = proven_margin(plan, output, domain, cuts, found, bounder.facts.magnitudes)
        if found.empty:
            assert proven <= 0
        else:
            truth = float(margins[inside].min())
            weight = float(found.weights.sum())
            assert proven <= weight * truth + SLACK * (1 + abs(truth))
