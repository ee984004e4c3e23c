"""The verifier's one entry: files in, a Result out. It decides what to try, in which order, and says why."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from provenn.bounds.graph import Graph
from provenn.bounds.graph.lattice import lattice
from provenn.bounds.propagate.interrupt import Cancellation, cancellable
from provenn.bounds.propagate.ladder import RATE, row_cost
from provenn.errors import Cancelled
from provenn.specs import ClauseBatch, Query
from provenn.verifier.arguments import Networks
from provenn.verifier.cells import by_cells
from provenn.verifier.device import chosen_device
from provenn.verifier.exact import Programs, input_leaves, neuron_leaves
from provenn.verifier.falsify import attacked, checker, interlude_of
from provenn.verifier.fixed import Fixed
from provenn.verifier.given import read
from provenn.verifier.options import Options
from provenn.verifier.pool import Fields
from provenn.verifier.problem import Clauses, Problem, recognised, specialised
from provenn.verifier.race import account, race
from provenn.verifier.rebound import Rebound
from provenn.verifier.refine import refined_facts
from provenn.verifier.result import Result
from provenn.verifier.root import Facts, outputs_bound, root_facts, root_seconds
from provenn.verifier.run import Run, Silent, Told
from provenn.verifier.search import Search
from provenn.verifier.threads import settle_threads
from provenn.verifier.workers import Shared

if TYPE_CHECKING:
    from torch.nn import Module

CLAUSES_AT_ONCE = 4096
# Seconds of the attack that follows the root bound.
FIRST_ATTACK = 0.5
MOST_FIRST_ATTACK = 4.0
# Seconds foretold for root bounds from which a short attack comes first, and how long that takes.
SLOW_ROOT, EARLY_ATTACK = 8.0, 3.0
# Shares of the time that is left which the plain and the optimised root bounds may take.
FIRST_ROOT_SHARE = 0.6
ROOT_SHARE = 0.4
# The share that bounding the outputs may take after either.
OUTPUTS_SHARE = 0.3
# Leaves of each element's tree in the passes that refine root boxes, and the share of the time left for one pass.
REFINEMENTS, REFINEMENT_STEPS, REFINEMENT_SHARE = (2, 4, 16, 64, 256), 3, 0.35
# What a pass must gain, as a share of what the outputs lack, for a next one to follow.
REFINEMENT_GAIN = 0.2
# What all passes must gain for the tree to begin anew with their boxes.
WORTH_RESTARTING = 0.02
# Seconds of the first slice of a race between input and neuron splits.
RACE_SECONDS = 2.0
# How often optimised root bounds take the time of plain ones, about.
OPTIMISED_ROOT = 4.0
# Unstable elements up to which linear programs come first, after short slices.
SMALL_ELEMENTS, SMALL_RACE_SECONDS = 100, 0.5
# Unstable elements up to which whole trees of linear programs are tried.
PROGRAM_ELEMENTS = 1000
# Seconds of other searches that come first, for each of them.
PROGRAM_SECONDS = 0.03
# The share of the time kept from input splits that go alone, for up to so many clauses that they leave open.
INPUTS_ALONE, FEW_CLAUSES = 0.7, 16
# Seconds of the attack from points that violate in float64 only.
LAST_ATTACK = 3.0
# Seconds kept back for writing the answer.
RESERVE = 0.3


class _Left(NamedTuple):
    """What a root leaves open: clauses, their numbers, minimisers and bounds, the facts, and the sum of the bounds'
    lack."""

    clauses: Clauses
    numbers: Tensor
    starts: Tensor
    best: Tensor
    facts: Facts
    lacking: float


def verify(
    networks: Networks | Module | Graph,
    property: str | os.PathLike[str] | Query,
    options: Options | None = None,
    progress: Callable[..., None] | None = None,
    *,
    cancel: Cancellation | None = None,
) -> Result:
    """Decide whether the network violates the property.

    ``networks``: a file, files by the names that a property in VNN-LIB 2 declares (``{"f": "a.onnx", ..}``), a
    ``torch.nn.Module``, or what ``bounds.read_module`` or ``read_onnx`` made of one. ``property``: a file, or a query
    (``specs.robust``, ``specs.always``, ``specs.never``, ``specs.read_query``); a module takes its inputs' shapes from
    it. ``progress`` is called as ``progress(stage, domains=n, open=n, bound=b)`` several times a second in this
    thread; ``domains`` never falls, ``bound`` is the lowest of what is open at that stage. Once ``cancel`` (a
    ``threading.Event``, for instance) is set, the verdict is ``unknown``, soon. Raises ModelError, PropertyError or
    InputError where an argument does not fit; everything else is a verdict.
    """
    before = torch.get_num_threads()
    told = Told(progress or Silent())
    begun = time.monotonic()
    try:
        with cancellable(cancel):
            return _verify(networks, property, options or Options(), told)
    except Cancelled:
        seconds = round(time.monotonic() - begun, 3)
        statistics = {"seconds": seconds, "domains": told.domains}
        return Result("unknown", f"cancelled after {seconds:.1f} s{told.where()}", None, None, statistics)
    finally:
        torch.set_num_threads(before)


def _verify(
    networks: Networks | Module | Graph, property: str | os.PathLike[str] | Query, options: Options, progress: Told
) -> Result:
    started = time.monotonic() if options.started is None else options.started
    deadline = started + options.timeout - RESERVE
    device = chosen_device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    given = read(networks, property)
    graph, query = given.graph, given.view
    if impossible := given.impossible():
        return Result("unsat", impossible)
    special = specialised(graph, query)
    spelled = Problem(
        lattice(special.graph), query, device, special.free, special.read, split_points=options.split_points
    )
    problem = recognised(spelled)
    generator = torch.Generator(device="cpu").manual_seed(options.seed)
    replay = given.replay(special.free)
    run = Run(problem, replay, options, deadline, progress, generator)
    inputs, outputs = (graph.nodes[index].size for index in (graph.inputs[0], graph.outputs[0]))
    run.say(
        f"device {device}, {torch.get_num_threads()} threads, {query.clause_count} clauses, "
        f"{problem.free_inputs.numel()} of {inputs} inputs free"
    )
    if given.substitution is not None:
        run.say(
            f"equalities leave {inputs} of {given.query.input_count} inputs, "
            f"{len(given.substitution.shifted)} of them differences of two"
        )
    if special.graph is not graph:
        run.say(
            f"specialised: {inputs - problem.hull[0].shape[1]} inputs folded, "
            f"{problem.outputs} of {outputs} outputs kept"
        )
    if problem is not spelled:
        tabulated = sum(node.operator == "pieces" for node in problem.graph.nodes)
        run.say(f"{tabulated} fragments are functions of one variable: {len(problem.graph.nodes)} nodes")
    with torch.no_grad():
        ended = _decide(run)
    return replace(_result(run, ended, time.monotonic() - started), composition=given.query.composition)


def _result(run: Run, ended: str, seconds: float) -> Result:
    run.statistics["seconds"] = round(seconds, 3)
    run.statistics["replays"] = run.replay.calls
    bound = run.bound if np.isfinite(run.bound) else None
    if run.witness is not None:
        return Result(
            "sat",
            f"a violating input was replayed on {run.replay.runtime}",
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


def _decide(run: Run) -> str:
    """Go through the clauses in batches; the first witness ends it, anything open keeps it from ``refuted``."""
    ended = "refuted"
    for batch in _batches(run):
        clauses = run.problem.clauses(batch)
        if len(clauses) == 0:
            continue
        run.count("clauses", len(clauses))
        numbers = torch.from_numpy(np.asarray(batch.first + batch.offset))
        one = _decide_clauses(run, clauses, numbers)
        if run.witness is not None:
            return "witness"
        if one != "refuted":
            ended = one if ended != "timeout" else ended
        further = batch.first + batch.count < run.problem.query.clause_count
        if run.late() and (further or ended != "refuted"):
            if further:
                run.open.append("clauses were left unread")
            return "timeout"
    return ended


def _settle(run: Run) -> None:
    """Choose once how many threads an operation gets."""
    if "threads" not in run.statistics:
        run.statistics["threads"] = settle_threads(run.problem)
        if run.statistics["threads"] < run.problem.workers.count:
            run.say("an operation takes less time on one thread")


def _batches(run: Run) -> Iterator[ClauseBatch]:
    return run.problem.query.batches(CLAUSES_AT_ONCE)


def _decide_clauses(run: Run, clauses: Clauses, numbers: Tensor) -> str:
    """Choose between splitting inputs and splitting neurons, or race them where both may do."""
    free, boxes = run.problem.free_inputs.numel(), clauses.lower.shape[0]
    if boxes > 1 and free <= run.options.input_split_limit and run.options.branching == "all":
        run.say(f"input splits: {boxes} boxes, {free} free inputs; every domain is bounded anew")
        return _by_inputs(run, clauses, numbers)
    ended = "refuted"
    for box in range(boxes):
        mine = (clauses.box == box).nonzero().squeeze(1)
        only, named = clauses.only(mine, box), numbers[mine]
        one = by_cells(run, only, named, _by_race) or _by_race(run, only, named)
        if run.witness is not None or one == "timeout":
            return one
        ended = one if one != "refuted" else ended
    return ended


def _by_inputs(run: Run, clauses: Clauses, numbers: Tensor) -> str:
    """Many boxes: bound all, attack what is left, then one search over all of it."""
    run.bound = float("inf")
    bounder = Rebound(run.problem, clauses)
    opened = _input_roots(run, bounder, clauses, numbers)
    if opened is None:
        return "witness" if run.witness is not None else "timeout"
    left = opened["clause"]
    if left.numel() == 0:
        return "refuted"
    _settle(run)
    if attacked(run, clauses.select(left), numbers[left], FIRST_ATTACK):
        return "witness"
    search = _search(run, bounder, clauses, numbers, opened)
    ended = search.run(run.deadline - INPUTS_ALONE * max(0.0, run.deadline - time.monotonic()))
    few = search.open_clauses() if ended == "timeout" and not search.stuck else left
    if ended != "timeout" or run.late() or len(few) > FEW_CLAUSES:
        return account(run, search, ended if ended != "timeout" else search.run(run.deadline))
    run.say(f"{len(few)} clauses open after {search.seconds:.1f} s of input splits: each by a race of all searches")
    run.count("domains", search.domains)
    ended = "refuted"
    for clause in few:
        one = _by_race(run, clauses.only(clause[None], int(clauses.box[clause])), numbers[clause][None])
        if run.witness is not None or one == "timeout":
            return one
        ended = one if one != "refuted" else ended
    return ended


def _input_roots(run: Run, bounder: Rebound, clauses: Clauses, numbers: Tensor) -> Fields | None:
    """Bound every clause's box: the open domains, or None where a witness was found or time ran out."""
    run.tell("root bounds")
    check = checker(run, clauses, numbers)
    bounded = Shared(bounder.bound, run.problem.workers)
    parts = []
    roots = bounder.roots()
    for start in range(0, len(clauses), run.options.batch):
        part = {k: v[start : start + run.options.batch] for k, v in roots.items()}
        kept, minimisers = bounded(part)
        run.count("domains", part["bound"].shape[0])
        if minimisers.shape[0] and check(minimisers, kept["clause"]):
            return None
        parts.append(kept)
        if run.late():
            run.open.append("root bounds")
            return None
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}


def _search(
    run: Run,
    bounder: Fixed | Rebound,
    clauses: Clauses,
    numbers: Tensor,
    start: Fields | None,
    batch: int = 0,
    rate: float = 1e-3,
) -> Search:
    leaves = neuron_leaves(bounder) if isinstance(bounder, Fixed) else input_leaves(bounder)
    return Search(
        bounder,
        batch=batch or max(run.options.batch, 2 * bounder.at_once),
        check=checker(run, clauses, numbers),
        leaf=leaves if run.options.exact_leaves else None,
        interlude=interlude_of(run, clauses, numbers),
        progress=partial(run.searched, bounder.name),
        start=start,
        rate=rate,
        workers=run.problem.workers,
        least=bounder.at_once,
    )


def _by_race(run: Run, clauses: Clauses, numbers: Tensor) -> str:
    """One box; what is undefined in it is told where anything is left open."""
    run.bound, run.undefined = float("inf"), None
    ended = _raced(run, clauses, numbers)
    if ended in ("timeout", "stuck") and run.undefined is not None:
        run.open.append(run.undefined.text)
    return ended


def _raced(run: Run, clauses: Clauses, numbers: Tensor) -> str:
    """One box: cheap root bounds, attack, strong root bounds, then the search (or searches) that fit."""
    if _slow_root(run, clauses) and attacked(run, clauses, numbers, EARLY_ATTACK):
        return "witness"
    begun = time.monotonic()
    left = _root(run, clauses, numbers)
    if left is None:
        return run.ended()
    clauses, numbers, facts = left.clauses, left.numbers, left.facts
    if len(clauses) == 0:
        return "refuted"
    rooted = time.monotonic() - begun
    _settle(run)
    # A network that is slow to bound is slow to attack, too.
    if attacked(run, clauses, numbers, min(MOST_FIRST_ATTACK, max(FIRST_ATTACK, rooted)), left.starts):
        return "witness"
    if run.undefined is not None and run.undefined.everywhere:
        return "stuck"
    small = facts.unstable_rows <= SMALL_ELEMENTS
    slices = SMALL_RACE_SECONDS if small else RACE_SECONDS
    inputs = None
    few = run.options.branching == "all" and run.problem.free_inputs.numel() <= run.options.input_split_limit
    if few and _worth_splitting(run, clauses, facts):
        boxes = Rebound(run.problem, clauses)
        opened = _input_roots(run, boxes, clauses, numbers)
        if opened is None:
            return run.ended()
        inputs = _search(run, boxes, clauses, numbers, opened, rate=facts.seconds)
        ended = _first_slices(run, inputs, max(slices, OPTIMISED_ROOT * rooted))
        if ended not in ("timeout", "stuck") or run.late():
            run.say("input splits")
            return account(run, inputs, ended)
        inputs = inputs if ended == "timeout" else None
    left = _root(run, clauses, numbers, steps=run.options.root_steps, known=left)
    if left is None:
        return run.ended()
    if len(left.clauses) == 0:
        return "refuted"
    if run.options.branching == "none":
        run.open.append(f"{len(left.clauses)} clauses, not split, {run.lowest()}")
        return "stuck"
    tree, bounder = _neuron_splits(run, left)
    if run.options.branching == "neurons":
        return account(run, tree, tree.run(run.deadline))
    if not small:
        ended = _first_slices(run, tree, slices)
        if ended not in ("timeout", "stuck") or run.late():
            return account(run, tree, ended)
        # No time for the boxes is none for better ones.
        better = left if facts.notes else _refined(run, left)
        if better is None:
            return run.ended()
        if len(better.clauses) == 0:
            run.count("domains", tree.domains)
            return "refuted"
        if better.lacking < (1 - WORTH_RESTARTING) * left.lacking:
            run.count("domains", tree.domains)
            left = better
            tree, bounder = _neuron_splits(run, left)
    clauses, numbers, facts = left.clauses, left.numbers, left.facts
    searches: list[Search | Programs] = [tree]
    if inputs is not None:
        searches.insert(0, inputs)
    if run.options.exact_leaves and bounder.columns.total <= PROGRAM_ELEMENTS:
        searches.insert(0 if small else len(searches), Programs(
            run.problem, clauses, facts, check=checker(run, clauses, numbers),
            progress=partial(run.searched, Programs.name),
            wait=0.0 if small else bounder.columns.total * PROGRAM_SECONDS,
        ))  # fmt: skip

    def last_attack(programs: Programs) -> bool:
        """Attack from points that violate in float64: no search can refute their clauses any more."""
        index, points = programs.violated()
        return attacked(run, clauses.select(index), numbers[index], LAST_ATTACK, points, thorough=True)

    return race(run, searches, slices, last_attack)


def _first_slices(run: Run, search: Search, seconds: float) -> str:
    """A search before better root bounds are sought: for ``seconds``, and again for as long as a slice removes half
    of what was left."""
    before = 2.0
    ended = "timeout"
    while ended == "timeout" and not run.late() and search.remaining() <= 0.5 * before:
        before = search.remaining()
        ended = search.run(min(run.deadline, time.monotonic() + seconds))
    return ended


def _neuron_splits(run: Run, left: _Left) -> tuple[Search, Fixed]:
    """A search by neuron splits over what the root leaves open, and its bounder."""
    options = run.options
    bounder = Fixed(
        run.problem, left.clauses, left.facts, steps=options.tree_steps, candidates=options.candidates,
        score=options.score, deadline=run.deadline,
    )  # fmt: skip
    run.say(f"neuron splits over {bounder.columns.total} unstable elements")
    batch = max(8, options.batch // 8)
    return _search(run, bounder, left.clauses, left.numbers, None, batch, rate=_tree_rate(run)), bounder


def _worth_splitting(run: Run, clauses: Clauses, facts: Facts) -> bool:
    """Whether time allows a split of every clause's input box, given what bounding the whole box took."""
    left = run.deadline - time.monotonic()
    if 2 * len(clauses) * facts.seconds <= left:
        return True
    run.say(f"no input splits: a box takes {facts.seconds:.1f} s, {len(clauses)} clauses, {left:.1f} s left")
    return False


def _slow_root(run: Run, clauses: Clauses) -> bool:
    """Whether root bounds will take so long that a short attack comes first."""
    seconds = root_seconds(run.problem, clauses.lower, clauses.upper)
    if seconds < SLOW_ROOT:
        return False
    run.say(f"attack first: root bounds would take some {seconds:.0f} s")
    return True


def _tree_rate(run: Run) -> float:
    """Seconds that a domain of neuron splits will take, roughly: a pass each way in every step."""
    plan = run.problem.plan(torch.float32)
    return max(1e-3, 4 * run.options.tree_steps * row_cost(plan, run.problem.output) / RATE)


def _root(
    run: Run, clauses: Clauses, numbers: Tensor, *, steps: int = 0, leaves: int = 0, known: _Left | None = None
) -> _Left | None:
    """Root facts, refined by trees of ``leaves``, and what they leave of clauses that are those of ``known``; None
    where a witness was found or time ran out."""
    run.tell("root bounds")
    begun = time.monotonic()
    share = FIRST_ROOT_SHARE if known is None else REFINEMENT_SHARE if leaves else ROOT_SHARE
    until = begun + share * max(0.0, run.deadline - begun)
    if known is not None and leaves:
        facts = refined_facts(run.problem, known.facts, leaves=leaves, steps=REFINEMENT_STEPS, deadline=until)
        how, steps = f"root refined by trees of {leaves} leaves", run.options.root_steps
    else:
        facts = root_facts(
            run.problem, clauses.lower, clauses.upper, steps=steps, deadline=until,
            known=None if known is None else known.facts,
        )  # fmt: skip
        how, steps = f"root with {steps} steps", steps or 10
    for note in facts.notes:
        run.say(note)
    until = time.monotonic() + OUTPUTS_SHARE * max(0.0, run.deadline - time.monotonic())
    refuted, best, starts = outputs_bound(run.problem, facts, clauses, steps=steps, deadline=until)
    run.undefined = facts.undefined
    best = best if known is None else torch.maximum(best, known.best)
    run.say(
        f"{how}: {facts.unstable_rows} unstable rows, {int(refuted.sum())} of {len(clauses)} clauses "
        f"refuted, lowest {float(best.min()):.4g}, {time.monotonic() - begun:.2f} s"
    )
    run.count("domains", len(clauses))
    left = (~refuted).nonzero().squeeze(1)
    if left.numel():
        run.bound = float(best.min())
    lacking = float(-best[left].clamp(max=0).sum())
    clauses, numbers, starts = clauses.select(left), numbers[left], starts[left]
    if left.numel() and checker(run, clauses, numbers)(starts, torch.arange(len(clauses))):
        return None
    if left.numel() and run.late():
        run.open.append(f"{len(clauses)} clauses at the root, {run.lowest()}")
        return None
    return _Left(clauses, numbers, starts, best[left], facts, lacking)


def _refined(run: Run, left: _Left) -> _Left | None:
    """Root boxes refined by larger and larger trees for as long as the outputs gain much by it."""
    for leaves in REFINEMENTS:
        before = left.lacking
        found = _root(run, left.clauses, left.numbers, leaves=leaves, known=left)
        if found is None or len(found.clauses) == 0:
            return found
        left = found
        if not left.lacking < (1 - REFINEMENT_GAIN) * before:
            break
    return left
