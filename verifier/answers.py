"""From a Lipschitz constant or a question of monotonicity to what the user sees.

Nothing heavy is imported at the top: the process that waits and prints must start at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from provenn.verifier.report import ANSWERED, FAILED, INTERVAL, REFUSED, Answer, failed, one_line, plain

if TYPE_CHECKING:
    from provenn.verifier.watchdog import Message, Outcome, Send

# Seconds kept back for handing the answer over, and the least that is worth a start.
RESERVE, LEAST = 0.3, 0.05
# Inputs up to which the best point so far is sent along.
POINT = 4096


@dataclass(frozen=True)
class Question:
    """What a command asks: a ``norm`` of a Jacobian (``lipschitz``), or a ``direction`` (``monotone``)."""

    command: str
    network: str
    property: str | None
    centre: str | None
    radius: float | None
    deadline: float
    timeout: float
    norm: str = "2"
    output: int | None = None
    tolerance: float = 1e-3
    input: int = 0
    direction: str = "up"
    device: str = "auto"
    threads: int | None = None
    seed: int = 0


def wrong_call(
    command: str, property: str | None, centre: str | None, radius: float | None, timeout: float
) -> str:  # fmt: skip
    """What is wrong with how a command is called, empty where nothing is."""
    if (centre is None) != (radius is None):
        return "--center and --radius go together: give both or neither"
    if property is None and centre is None:
        return "got no region; give --region PROPERTY.vnnlib, or --center FILE and --radius EPS"
    if property is not None and centre is not None:
        return "got both --region and --center; give one of them"
    if radius is not None and not radius >= 0:
        return f"got --radius={radius!r}, expected a number of at least 0"
    if radius is not None and math.isinf(radius) and command == "monotone":
        return "got --radius=inf, expected a finite number: monotone needs a finite box"
    if not 0 < timeout < math.inf:
        return f"got --timeout={timeout!r}, expected a positive number of seconds"
    return ""


def work(question: Question, send: Send) -> Message:
    """Answer a question in the worker process."""
    last = -math.inf

    def progress(stage: str, **numbers: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= INTERVAL:
            last = now
            point = numbers.pop("point", None)
            if point is not None and len(point) <= POINT:
                numbers["point"] = point
            send({"stage": stage, **plain(numbers)})

    try:
        send({"stage": "loading"})
        return plain(_asked(question, progress))
    except Exception as error:  # noqa: BLE001 (nothing is guessed from it: it is reported as a failure)
        return failed(error, "use a machine with more")


def _asked(question: Question, progress: Callable[..., None]) -> dict[str, Any]:
    import torch

    from provenn.verifier import lipschitz, monotone, region
    from provenn.verifier.memory import keep_freed_memory
    from provenn.verifier.options import available_threads

    keep_freed_memory()
    if question.threads is not None:
        torch.set_num_threads(min(question.threads, available_threads()))
    graph = lipschitz.differentiable(question.network)
    lower, upper = region.box(graph, question.property, question.centre, question.radius)
    left = max(LEAST, question.deadline - time.monotonic() - RESERVE)
    if question.command == "monotone":
        assert question.output is not None
        return monotone.as_report(
            monotone.prove_monotone(
                question.network, lower, upper, question.input, question.output, question.direction,
                timeout=left, seed=question.seed, device=question.device, progress=progress,
            )
        )  # fmt: skip
    return lipschitz.as_report(
        lipschitz.local_lipschitz(
            graph, lower, upper, question.norm, question.output, tolerance=question.tolerance,
            timeout=left, seed=question.seed, device=question.device, progress=progress,
        )
    )  # fmt: skip


def conclude(outcome: Outcome, question: Question, seconds: float) -> Answer:
    """The answer to an outcome; what did not end in time has the bounds that were reached on the way."""
    message, error, code = dict(outcome.message), "", ANSWERED
    reached = outcome.progress
    if "error" in message:
        return Answer(error=message["error"], code=REFUSED, report={"error": message["error"]})
    if outcome.ending == "crash" or "failure" in message:
        code, error = FAILED, message.get("failure") or f"the verifier {outcome.detail}"
    if outcome.ending != "answer" or "failure" in message:
        domains, upper = reached.get("domains") or 0, reached.get("bound")
        reason = error or f"the time limit of {question.timeout:g} s was reached"
        if question.command == "monotone":
            message = {"verdict": "unknown", "reason": reason, "inputs": None, "outputs": None, "bound": upper}
        else:
            bounds = {"lower": reached.get("lower", 0.0), "upper": "inf" if upper is None else upper}
            message = {**bounds, "point": reached.get("point"), "norm": question.norm, "reason": reason}
        message |= {"domains": domains}
    names = ("output", "timeout", *(("input", "direction") if question.command == "monotone" else ("tolerance",)))
    message |= {"seconds": round(seconds, 3), "network": question.network}
    message |= {name: getattr(question, name) for name in names}
    if question.command == "monotone":
        lines = [message["verdict"]]
        if message["inputs"] is not None:
            lines += _pair(message, question)
        text, summary = "\n".join(lines) + "\n", f"{lines[0]} in {seconds:.2f} s: {one_line(message['reason'])}"
    else:
        text = f"lower {message['lower']!s}\nupper {message['upper']!s}\n"
        summary = f"norm {message['norm']} in {seconds:.2f} s, {message['domains']} domains: {message['reason']}"
    return Answer(text, error, code, summary, report=message)


def _pair(message: dict[str, Any], question: Question) -> list[str]:
    """A witness as text: input and output at both ends, then the inputs that both share."""
    first, second = message["inputs"]
    place = question.input
    lines = [
        f"X_{place} {x[place]!r} Y_{question.output} {y!r}"
        for x, y in zip((first, second), message["outputs"], strict=True)
    ]
    return lines + [f"X_{i} {x!r}" for i, x in enumerate(first) if i != place]
