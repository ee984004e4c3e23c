"""The verifier's one entry: files in, a Result out. It decides what to try, in which order, and says why."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph import evaluate, read_onnx
from provenn.bounds.graph.lattice import lattice
from provenn.errors import InputError
from provenn.specs import ClauseBatch, read_query
from provenn.verifier.attack import attack
from provenn.verifier.exact import Programs, input_leaves, neuron_leaves
from provenn.verifier.fixed import Fixed
from provenn.verifier.options import Options
from provenn.verifier.pool import Fields
from provenn.verifier.problem import Clauses, Problem, dense_clauses
from provenn.verifier.rebound import Rebound
from provenn.verifier.replay import Replay
from provenn.verifier.result import Result, Witness
from provenn.verifier.root import Facts, outputs_bound, root_facts
from provenn.verifier.search import Search

CLAUSES_AT_ONCE = 4096
# Seconds of the attack that follows the root bound, and the share of the search that later ones may take.
FIRST_ATTACK = 0.5
MOST_FIRST_ATTACK = 4.0
# Shares of the time that is left which the plain and the optimised root bounds may take.
FIRST_ROOT_SHARE = 0.6
ROOT_SHARE = 0.4
ATTACK_SHARE = 0.1
# Seconds of the first slice of a race between input and neuron splits.
RACE_SECONDS = 2.0
# Unstable elements up to which linear programs come first, after short slices.
SMALL_ELEMENTS, SMALL_RACE_SECONDS = 100, 0.5
# Unstable elements up to which whole trees of linear programs are tried.
PROGRAM_ELEMENTS = 1000
# The share of the time kept from input splits that go alone, for up to so many clauses that they leave open.
INPUTS_ALONE, FEW_CLAUSES = 0.7, 16
# The least time of a search in a race, as a share of the time of the one that had most.
FAIR_SHARE = 0.2
# Seconds of the attack from points that violate in float64 only.
LAST_ATTACK = 3.0
# Seconds kept back for writing the answer.
RESERVE = 0.3


class _Silent:
    def __call__(self, stage: str, *, domains: int | None = None, bound: float | None = None) -> None:
        """No progress wanted."""


@dataclass
class _Run:
    """What one verification carries from stage to stage."""

    problem: Problem
    replay: Replay
    options: Options
    deadline: float
    progress: Any
    generator: torch.Generator
    witness: Witness | None = None
    strategy: list[str] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=lambda: {"domains": 0, "rounds": 0, "clauses": 0})
    bound: float = float("inf")
    open: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        if text not in self.strategy:
            self.strategy.append(text)

    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def ended(self) -> str:
        return "witness" if self.witness is not None else "timeout"

    def count(self, name: str, amount: int) -> None:
        self.statistics[name] = self.statistics.get(name, 0) + amount


def verify(
    network_path: str | os.PathLike[str],
    property_path: str | os.PathLike[str],
    options: Options | None = None,
    progress: Callable[..., None] | None = None,
) -> Result:
    """Decide whether the network violates the property.

    Raises ModelError, PropertyError or InputError where a file does not fit; everything else is a verdict.
    ``progress``
    is called as ``progress(stage, domains=n, bound=b)``.
    """
    options = options or Options()
    started = time.monotonic() if options.started is None else options.started
    deadline = started + options.timeout - RESERVE
    device = _device(options)
    _threads(options)
    graph = read_onnx(network_path)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise InputError(
            f"{network_path}: the network has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; "
            "VNN-LIB 1.0 speaks of exactly one of each: verify a part of the network with one input and one output"
        )
    node_in, node_out = graph.nodes[graph.inputs[0]], graph.nodes[graph.outputs[0]]
    element = node_in.scalar_type if node_in.scalar_type in ("float32", "float64") else "float32"
    query = read_query(os.fspath(property_path), node_in.size, node_out.size, element)
    problem = Problem(lattice(graph), query, device)
    generator = torch.Generator(device="cpu").manual_seed(options.seed)
    run = _Run(problem, Replay(network_path, query), options, deadline, progress or _Silent(), generator)
    run.say(
        f"device {device}, {torch.get_num_threads()} threads, {query.clause_count} clauses, "
        f"{problem.free_inputs.numel()} of {node_in.size} inputs free"
    )
    with torch.no_grad():
        ended = _decide(run)
    return _result(run, ended, time.monotonic() - started)


def _device(options: Options) -> torch.device:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is visible to torch; use --device cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _threads(options: Options) -> None:
    if options.threads is not None:
        torch.set_num_threads(options.threads)


def _result(run: _Run, ended: str, seconds: float) -> Result:
    run.statistics["seconds"] = round(seconds, 3)
    run.statistics["replays"] = run.replay.calls
    bound = run.bound if np.isfinite(run.bound) else None
    if run.witness is not None:
        return Result(
            "sat",
            "a violating input was replayed on onnxruntime",
            run.witness,
            None,
            run.statistics,
            run.strategy,
        )
    if ended == "refuted":
        return Result("unsat", "every clause was refuted", None, bound, run.statistics, run.strategy)
    if ended == "timeout":
        return Result(
            "timeout", "time ran out: " + "; ".join(run.open), None, bound, run.statistics, run.strategy
        )
    return Result("unknown", "; ".join(run.open) or "undecided", None, bound, run.statistics, run.strategy)


def _decide(run: _Run) -> str:
    """Go through the clauses in batches; the first witness ends it, anything open keeps it from ``refuted``."""
    ended = "refuted"
    for batch in _batches(run):
        clauses = dense_clauses(batch, run.problem.outputs, run.problem.device)
        if len(clauses) == 0:
            continue
        run.count("clauses", len(clauses))
        numbers = torch.from_numpy(np.asarray(batch.first + batch.offset))
        one = _decide_clauses(run, clauses, numbers)
        if run.witness is not None:
            return "witness"
        if one != "refuted":
            ended = one if ended != "timeout" else ended
        if run.late():
            run.open.append("clauses were left unread")
            return "timeout"
    return ended


def _batches(run: _Run) -> Iterator[ClauseBatch]:
    return run.problem.query.batches(CLAUSES_AT_ONCE)


def _decide_clauses(run: _Run, clauses: Clauses, numbers: Tensor) -> str:
    """Choose between splitting inputs and splitting neurons, or race them where both may do."""
    free, boxes = run.problem.free_inputs.numel(), clauses.lower.shape[0]
    if boxes > 1 and free <= run.options.input_split_limit:
        run.say(f"input splits: {boxes} boxes, {free} free inputs; every domain is bounded anew")
        return _by_inputs(run, clauses, numbers)
    ended = "refuted"
    for box in range(boxes):
        mine = (clauses.box == box).nonzero().squeeze(1)
        one = _by_race(run, clauses.only(mine, box), numbers[mine])
        if run.witness is not None or one == "timeout":
            return one
        ended = one if one != "refuted" else ended
    return ended


def _checker(run: _Run, clauses: Clauses, numbers: Tensor) -> Callable[[Tensor, Tensor], bool]:
    """Judges minimisers: a forward pass finds the nearest to a violation, onnxruntime has the last word."""

    def check(points: Tensor, clause: Tensor) -> bool:
        shaped = points.float().view(points.shape[0], *run.problem.input_shape)
        outputs = evaluate(run.problem.graph, [shaped], dtype=torch.float32, device=run.problem.device)[
            0
        ].flatten(1)
        margin = (
            torch.einsum("dro,do->dr", clauses.rows[clause].float(), outputs) - clauses.threshold[clause]
        ).amax(1)
        near, order = margin.topk(min(3, margin.numel()), largest=False)
        for value, index in zip(near.tolist(), order.tolist(), strict=False):
            if value <= 1e-4:
                found = run.replay.check(points[index].cpu().numpy(), int(numbers[clause[index]]))
                if found is not None:
                    run.witness = found
                    return True
        return False

    return check


def _attack(
    run: _Run,
    clauses: Clauses,
    numbers: Tensor,
    seconds: float,
    starts: Tensor | None = None,
    thorough: bool = False,
) -> bool:
    run.progress("attack")
    begun = time.monotonic()
    with torch.enable_grad():
        run.witness = attack(
            run.problem,
            clauses,
            run.replay,
            number=numbers.cpu().numpy(),
            options=run.options,
            deadline=min(run.deadline, begun + seconds),
            generator=run.generator,
            starts=starts,
            start_clause=None if starts is None else torch.arange(len(clauses)),
            thorough=thorough,
        )
    run.statistics["attack_seconds"] = round(
        run.statistics.get("attack_seconds", 0) + time.monotonic() - begun, 3
    )
    return run.witness is not None


def _interlude(run: _Run, clauses: Clauses, numbers: Tensor) -> Callable[[], bool]:
    """Between rounds: another attack whenever the search has run for long enough since the last."""
    begun = time.monotonic()
    spent = 0.0

    def interlude() -> bool:
        nonlocal spent
        elapsed = time.monotonic() - begun - spent
        seconds = max(0.5, 0.5 * spent)
        if ATTACK_SHARE * elapsed < spent + seconds:
            return False
        before = time.monotonic()
        found = _attack(run, clauses, numbers, seconds, thorough=True)
        spent += time.monotonic() - before
        return found

    return interlude


def _by_inputs(run: _Run, clauses: Clauses, numbers: Tensor) -> str:
    """Many boxes: bound all, attack what is left, then one search over all of it."""
    bounder = Rebound(run.problem, clauses)
    opened = _input_roots(run, bounder, clauses, numbers)
    if opened is None:
        return "witness" if run.witness is not None else "timeout"
    left = opened["clause"]
    if left.numel() == 0:
        return "refuted"
    if _attack(run, clauses.select(left), numbers[left], FIRST_ATTACK):
        return "witness"
    search = _search(run, bounder, clauses, numbers, opened)
    ended = search.run(run.deadline - INPUTS_ALONE * max(0.0, run.deadline - time.monotonic()))
    few = search.open_clauses() if ended == "timeout" and not search.stuck else left
    if ended != "timeout" or run.late() or len(few) > FEW_CLAUSES:
        return _account(run, search, ended if ended != "timeout" else search.run(run.deadline))
    run.say(f"{len(few)} clauses open after {search.seconds:.1f} s of input splits: each by a race of all searches")
    run.count("domains", search.domains)
    ended = "refuted"
    for clause in few:
        one = _by_race(run, clauses.only(clause[None], int(clauses.box[clause])), numbers[clause][None])
        if run.witness is not None or one == "timeout":
            return one
        ended = one if one != "refuted" else ended
    return ended


def _input_roots(run: _Run, bounder: Rebound, clauses: Clauses, numbers: Tensor) -> Fields | None:
    """Bound every clause's box: the open domains, or None where a witness was found or time ran out."""
    run.progress("root bounds")
    check = _checker(run, clauses, numbers)
    parts = []
    roots = bounder.roots()
    for start in range(0, len(clauses), run.options.batch):
        part = {k: v[start : start + run.options.batch] for k, v in roots.items()}
        kept, minimisers, _ = bounder.bound(part)
        run.count("domains", part["bound"].shape[0])
        if minimisers.shape[0] and check(minimisers, kept["clause"]):
            return None
        parts.append(kept)
        if run.late():
            run.open.append("root bounds")
            return None
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}


def _search(
    run: _Run,
    bounder: Fixed | Rebound,
    clauses: Clauses,
    numbers: Tensor,
    start: Fields | None,
    batch: int = 0,
) -> Search:
    leaves = neuron_leaves(bounder) if isinstance(bounder, Fixed) else input_leaves(bounder)
    return Search(
        bounder,
        batch=batch or run.options.batch,
        check=_checker(run, clauses, numbers),
        leaf=(lambda fields: leaves(fields, run.deadline)) if run.options.exact_leaves else None,
        interlude=_interlude(run, clauses, numbers),
        progress=lambda d, o, b: run.progress("search", domains=run.statistics["domains"] + d, bound=b),
        start=start,
    )


def _by_race(run: _Run, clauses: Clauses, numbers: Tensor) -> str:
    """One box: cheap root bounds, attack, strong root bounds, then the search (or searches) that fit."""
    begun = time.monotonic()
    left = _root(run, clauses, numbers, steps=0)
    if left is None:
        return run.ended()
    clauses, numbers, starts, facts = left
    if len(clauses) == 0:
        return "refuted"
    # A network that is slow to bound is slow to attack, too.
    if _attack(
        run, clauses, numbers, min(MOST_FIRST_ATTACK, max(FIRST_ATTACK, time.monotonic() - begun)), starts
    ):
        return "witness"
    small = facts.unstable_rows <= SMALL_ELEMENTS
    slices = SMALL_RACE_SECONDS if small else RACE_SECONDS
    inputs = None
    if run.problem.free_inputs.numel() <= run.options.input_split_limit:
        bounder = Rebound(run.problem, clauses)
        opened = _input_roots(run, bounder, clauses, numbers)
        if opened is None:
            return run.ended()
        inputs = _search(run, bounder, clauses, numbers, opened)
        ended = inputs.run(min(run.deadline, time.monotonic() + slices))
        if ended not in ("timeout", "stuck") or run.late():
            run.say("input splits")
            return _account(run, inputs, ended)
        inputs = inputs if ended == "timeout" else None
    left = _root(run, clauses, numbers, steps=run.options.root_steps, known=facts)
    if left is None:
        return run.ended()
    clauses, numbers, starts, facts = left
    if len(clauses) == 0:
        return "refuted"
    tree = Fixed(run.problem, clauses, facts, steps=run.options.tree_steps, candidates=run.options.candidates)
    run.say(f"neuron splits over {tree.columns.total} unstable elements")
    searches: list[Search | Programs] = [
        _search(run, tree, clauses, numbers, None, max(8, run.options.batch // 8))
    ]
    if inputs is not None:
        searches.insert(0, inputs)
    if run.options.exact_leaves and tree.columns.total <= PROGRAM_ELEMENTS:
        searches.insert(0 if small else len(searches), Programs(
            run.problem, clauses, facts, check=_checker(run, clauses, numbers),
            progress=lambda d, o, b: run.progress("search", domains=run.statistics["domains"] + d, bound=b),
        ))  # fmt: skip

    def last_attack(programs: Programs) -> bool:
        """Attack from points that violate in float64: no search can refute their clauses any more."""
        index, points = programs.violated()
        return _attack(run, clauses.select(index), numbers[index], LAST_ATTACK, points, thorough=True)

    return _race(run, searches, slices, last_attack)


def _race(
    run: _Run, searches: list[Search | Programs], slices: float, last_attack: Callable[[Programs], bool]
) -> str:
    """Give each slice to the search that is expected to end first, judged by what it did in its last one."""
    running = list(searches)
    left = {id(s): _seconds_left(1.0, s.remaining(), s.seconds) for s in searches if s.seconds}
    while True:
        fresh = [s for s in running if not s.seconds]
        # What a slice took away foretells little: nobody is left behind for good.
        behind = [s for s in running if s.seconds < FAIR_SHARE * max(other.seconds for other in running)]
        first = min(behind, key=lambda s: s.seconds) if behind else min(running, key=lambda s: left.get(id(s), 0.0))
        chosen = fresh[0] if fresh else first
        if not fresh and len(running) > 1:
            slices = min(1.5 * slices, 10.0)
            run.say(
                f"{chosen.bounder.name} lead; left: "
                + ", ".join(
                    f"{100 * s.remaining():.3g} % of the tree of {s.bounder.name} after {s.seconds:.1f} s"
                    for s in running
                )
            )
        until = run.deadline if len(running) == 1 else min(run.deadline, time.monotonic() + slices)
        before, begun = (chosen.remaining(), chosen.seconds) if chosen.seconds else (1.0, 0.0)
        ended = chosen.run(until)
        left[id(chosen)] = _seconds_left(before, chosen.remaining(), chosen.seconds - begun)
        if (
            ended == "stuck" and len(running) > 1
        ):  # a leaf that one search cannot settle may still yield to another
            running.remove(chosen)
            if isinstance(chosen, Programs):
                if chosen.violated()[0].numel():
                    ended = "witness" if last_attack(chosen) else "stuck"
                    break
                run.open.append(chosen.why())
            continue
        if ended != "timeout" or run.late():
            break
    last = chosen if ended != "timeout" else min(running, key=lambda s: s.remaining())
    for other in searches:
        if other is not last:
            run.count("domains", other.domains)
        if isinstance(other, Programs):
            run.count("programs", other.domains)
    return _account(run, last, ended)


def _seconds_left(before: float, after: float, seconds: float) -> float:
    """Extrapolated linearly from the share of a tree that a slice took away: first shares go fast, deep ones
    slowly."""
    return seconds * after / max(1e-12, before - after)


def _root(
    run: _Run, clauses: Clauses, numbers: Tensor, steps: int, known: Facts | None = None
) -> tuple[Clauses, Tensor, Tensor, Facts] | None:
    """Root facts and the clauses they leave open, with minimisers; None where a witness was found or time ran out."""
    run.progress("root bounds")
    begun = time.monotonic()
    until = begun + (ROOT_SHARE if known else FIRST_ROOT_SHARE) * max(0.0, run.deadline - begun)
    facts = root_facts(run.problem, clauses.lower, clauses.upper, steps=steps, deadline=until, known=known)
    refuted, best, starts = outputs_bound(run.problem, facts, clauses, steps=steps or 10)
    run.say(
        f"root with {steps} steps: {facts.unstable_rows} unstable rows, {int(refuted.sum())} of {len(clauses)} clauses "
        f"refuted, lowest {float(best.min()):.4g}, {time.monotonic() - begun:.2f} s"
    )
    run.count("domains", len(clauses))
    left = (~refuted).nonzero().squeeze(1)
    if left.numel() and run.bound > float(best.min()):
        run.bound = float(best.min())
    clauses, numbers, starts = clauses.select(left), numbers[left], starts[left]
    if left.numel() and _checker(run, clauses, numbers)(starts, torch.arange(len(clauses))):
        return None
    if left.numel() and run.late():
        run.open.append(f"{len(clauses)} clauses, lowest root bound {float(best.min()):.4g}")
        return None
    return clauses, numbers, starts, facts


def _account(run: _Run, search: Search | Programs, ended: str) -> str:
    run.count("domains", search.domains)
    run.count("rounds", search.rounds)
    run.bound = search.bound()
    if ended == "timeout":
        run.open.append(f"{search.open()} domains open, lowest bound {search.bound():.4g}")
    if ended == "stuck":
        leaves = f"{search.stuck} leaves could not be decided, lowest bound {search.lowest_stuck:.4g}"
        run.open.append(search.why() if isinstance(search, Programs) else leaves)
    return ended
