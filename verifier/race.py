"""A race of searches: each slice of time goes to the one that should end first."""

from __future__ import annotations

import time
from collections.abc import Callable

from provenn.verifier.exact import Programs
from provenn.verifier.run import Run
from provenn.verifier.search import Search

# The least time of a search in a race, as a share of the time of the one that had most.
FAIR_SHARE = 0.1
# Seconds of a slice, at least, for a search that has fallen behind that share or has hardly begun.
SHORTEST = 0.5


def race(
    run: Run, searches: list[Search | Programs], slices: float, last_attack: Callable[[Programs], bool]
) -> str:
    """Give each slice to the search that is expected to end first, judged by what it did in its last one."""
    running = list(searches)
    left = {id(s): _seconds_left(1.0, s.remaining(), s.seconds) for s in searches if s.seconds}
    while True:
        most = max(s.seconds for s in running)
        ready = [s for s in running if not isinstance(s, Programs) or s.wait <= most] or running
        fresh = [s for s in ready if not s.seconds]
        first = min(ready, key=lambda s: left.get(id(s), 0.0))
        # What a slice took away foretells little: nobody is left behind for good, unless the first is about to end.
        behind = [s for s in ready if s.seconds < FAIR_SHARE * most and left.get(id(first), 0.0) > slices]
        chosen = fresh[0] if fresh else min(behind, key=lambda s: s.seconds) if behind else first
        if not fresh and len(ready) > 1:
            slices = min(1.5 * slices, 10.0)
            run.say(
                f"{chosen.bounder.name} lead; left: "
                + ", ".join(
                    f"{100 * s.remaining():.3g} % of the tree of {s.bounder.name} after {s.seconds:.1f} s"
                    for s in ready
                )
            )
        # What a short slice took away is believed for about as long again.
        length = slices if fresh else min(slices, max(SHORTEST, chosen.seconds))
        if not fresh and chosen is not first:  # catching up, no more
            length = max(SHORTEST, FAIR_SHARE * most - chosen.seconds)
        until = run.deadline if len(running) == 1 else min(run.deadline, time.monotonic() + length)
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
    return account(run, last, ended)


def _seconds_left(before: float, after: float, seconds: float) -> float:
    """Extrapolated linearly from the share of a tree that a slice took away: first shares go fast, deep ones
    slowly."""
    return seconds * after / max(1e-12, before - after)


def account(run: Run, search: Search | Programs, ended: str) -> str:
    run.count("domains", search.domains)
    run.count("rounds", search.rounds)
    run.bound = run.best(search.bound())
    if ended == "timeout":
        run.open.append(f"{search.open()} domains open, {run.lowest()}")
    if ended == "stuck":
        leaves = f"{search.stuck} leaves could not be decided, {run.lowest()}"
        run.open.append(search.why() if isinstance(search, Programs) else leaves)
    return ended
