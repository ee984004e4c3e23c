"""From a verification to what the user sees: verdict, witness, JSON, one line for an error.

Nothing heavy is imported at the top: the process that waits and prints must start at once.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import logging
import math
import os
import platform
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from provenn.errors import ProvennError
from provenn.verifier.arguments import Networks
from provenn.verifier.assignments import layout
from provenn.verifier.history import History
from provenn.verifier.targets import write_text

if TYPE_CHECKING:
    from provenn.verifier.options import Options
    from provenn.verifier.result import Result
    from provenn.verifier.watchdog import Message, Outcome, Send

ANSWERED, REFUSED, USAGE, FAILED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: a verdict was reached, an input or output file is at fault, so is the command line, the verifier
failed, the user interrupted."""

LIBRARIES = ("provenn", "torch", "onnxruntime", "onnx", "numpy", "scipy")
LOGGER = logging.getLogger("provenn")
INTERVAL = 0.1
"""Seconds between two progress messages or two drawings of the progress line."""


class Progress(Protocol):
    """What a running verification calls, as often as it likes, to say where it is."""

    def __call__(
        self, stage: str, *, domains: int | None = None, open: int | None = None, bound: float | None = None
    ) -> None:
        """``domains`` were bounded so far, ``open`` are left in the search at hand; ``bound`` is the smallest margin
        among those."""


@dataclass(frozen=True)
class Answer:
    """All that one run tells.

    ``text`` is for standard output, ``error`` (one line) for standard error, ``code`` ends the process, ``summary``
    is for a person who watches and ``details`` for one who asks, ``witness`` is in the competition's format,
    ``report`` is what ``--json`` writes, ``element_type`` that of the witness.
    """

    text: str = ""
    error: str = ""
    code: int = ANSWERED
    summary: str = ""
    details: tuple[str, ...] = ()
    witness: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    element_type: str = ""


def work(
    networks: Networks, property_path: str, options: Options, send: Send, question: dict[str, Any] | None = None
) -> Message:
    """Verify, in the worker process, and put the result into a message that JSON can carry.

    With a ``question`` (see ``robustness``) that is decided, and the property's path is but its name.
    """
    last, current = -math.inf, ""
    if options.verbose:
        logging.basicConfig(level=logging.INFO, format="%(relativeCreated)7.0f ms  %(message)s")

    def progress(stage: str, **numbers: Any) -> None:
        nonlocal last, current
        now = time.monotonic()
        if now - last >= INTERVAL or stage != current:
            last = now
            send({"stage": stage, **plain(numbers)})
        if stage != current:
            current = stage
            LOGGER.info(stage)

    if options.threads is not None:  # read when torch is loaded; its worker threads are made then
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(options.threads)
    try:
        progress("loading")
        gc.disable()  # modules leave no garbage; looking for it took a tenth of the start-up
        from provenn.verifier import verify
        from provenn.verifier.memory import keep_freed_memory

        gc.freeze()
        gc.enable()
        keep_freed_memory()
        if question is not None:
            from provenn.verifier.robustness import decide

            return _message(decide(networks, question, options, progress))
        return _message(verify(networks, property_path, options, progress))
    except Exception as error:  # noqa: BLE001 (a verdict is never guessed from it: it is reported as a failure)
        if options.verbose and not isinstance(error, (ProvennError, MemoryError)):
            traceback.print_exc()
        return failed(error, "set --memory, or use a machine with more")


def failed(error: Exception, more_memory: str) -> Message:
    """The message of a worker that has no answer: a file or call at fault, too little memory, or ourselves."""
    if isinstance(error, ProvennError):
        return {"error": one_line(error)}
    if isinstance(error, MemoryError):
        return {"failure": f"out of memory ({one_line(error)}): {more_memory}"}
    return {"failure": f"internal error, please report it: {type(error).__name__}: {one_line(error)}"}


def _message(result: Result) -> Message:
    message = {
        "verdict": result.verdict,
        "reason": result.reason,
        "bound": result.bound,
        "statistics": dict(result.statistics),
        "strategy": list(result.strategy),
        "witness": None,
        "witness_text": "",
    }
    if result.witness is not None:
        from provenn.specs import format_witness

        witness: dict[str, Any] = {"inputs": result.witness.inputs, "outputs": result.witness.outputs}
        message["witness"] = witness
        message["element_type"] = str(result.witness.inputs.dtype)
        if result.composition is not None:
            witness["tensors"] = layout(result.composition)
        message["witness_text"] = format_witness(result.witness, result.composition)
    return plain(message)


def conclude(
    outcome: Outcome,
    network: Networks,
    property_path: str,
    options: Options,
    *,
    seconds: float,
    history: History | None = None,
    standard: bool = False,
    serialised: bool = False,
) -> Answer:
    """The answer to an outcome. A run that did not answer is ``timeout`` or ``unknown``, never a proof.

    ``standard``: the first line has the words of the VNN-LIB 2 standard; ``serialised``: the witness is written to
    files and not printed.
    """
    message, detail, code, error = dict(outcome.message), "", ANSWERED, ""
    witness_text, element_type = message.pop("witness_text", ""), message.pop("element_type", "")
    if outcome.ending == "deadline":
        detail = f"the time limit of {options.timeout:g} s was reached{_whereabouts(outcome.progress)}"
        message = {"verdict": "timeout", "reason": detail, "statistics": outcome.progress}
    elif outcome.ending == "memory":
        detail = f"the memory limit was reached ({outcome.detail}){_whereabouts(outcome.progress)}"
        message = {"verdict": "unknown", "reason": detail, "statistics": outcome.progress}
    elif "error" in message:
        code, error = REFUSED, message["error"]
        message = {"verdict": "error", "reason": error}
    elif outcome.ending == "crash" or "failure" in message:
        code = FAILED
        error = message.get("failure") or f"the verifier {outcome.detail}{_whereabouts(outcome.progress)}"
        message = {"verdict": "unknown", "reason": error, "statistics": outcome.progress}
    verdict = message["verdict"]
    history = history or History()
    if verdict == "unsat":
        domains = message.get("statistics", {}).get("domains")
        history.add(seconds, {"stage": "refuted", "domains": domains, "open": 0})
    word = "timed-out" if standard and verdict == "timeout" else verdict
    shown = "" if serialised else witness_text
    text = "" if code == REFUSED else "\n".join(line for line in (word, shown) if line) + "\n"
    report = {
        "verdict": verdict,
        "reason": message["reason"],
        "network": network,
        "property": property_path,
        "seconds": round(seconds, 3),
        "bound": message.get("bound", outcome.progress.get("bound")),
        "statistics": message.get("statistics", {}),
        "strategy": message.get("strategy", []),
        "history": history.columns(),
        "options": options.as_dict(),
        "witness": message.get("witness"),
    }
    summary = f"{verdict} in {seconds:.2f} s: {one_line(message['reason'])}"
    numbers = ", ".join(f"{name} {value}" for name, value in report["statistics"].items())
    details = tuple(f"  {one_line(line)}" for line in (*report["strategy"], numbers) if line)
    return Answer(text, error, code, summary, details, witness_text, report, element_type)


def _write_assignments(folder: str, answer: Answer) -> None:
    from provenn.verifier.assignments import write

    write(folder, {**answer.report["witness"], "type": answer.element_type})


@functools.cache
def versions() -> dict[str, str]:
    """What a report needs to be reproduced; imports none of the libraries."""
    from importlib import metadata

    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found | {"python": platform.python_version(), "platform": platform.platform()}


def write_json(path: str, report: dict[str, Any]) -> None:
    """Write a report, with versions, as indented JSON."""
    write_text(path, json.dumps(plain({**report, "versions": versions()}), indent=2) + "\n")


def one_line(error: object) -> str:
    """The text of an error on a single line; a caret below a quoted line has no place there."""
    lines = (" ".join(line.split()) for line in str(error).splitlines())
    return " | ".join(line for line in lines if line.strip("^"))


def _whereabouts(progress: Message) -> str:
    return f" ({_describe(progress)})" if progress else ""


def _describe(progress: Message) -> str:
    parts = [str(progress.get("stage", ""))]
    if progress.get("domains") is not None:
        parts.append(f"{progress['domains']} domains")
    if progress.get("open") is not None:
        parts.append(f"{progress['open']} open")
    if progress.get("bound") is not None:
        bound = progress["bound"]
        parts.append(f"bound {bound:.4g}" if isinstance(bound, float) else f"bound {bound}")
    return ", ".join(part for part in parts if part)


def plain(value: Any) -> Any:
    """The value in JSON's own types; numbers that JSON does not have become text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


class ProgressLine:
    """One line on a terminal that says where the run is; calls from anything else than a terminal draw nothing."""

    def __init__(self, stream: TextIO, started: float, enabled: bool = True) -> None:
        self.enabled = enabled and stream.isatty()
        self._stream, self._started, self._drawn = stream, started, -math.inf

    def __call__(self, progress: Message) -> None:
        """Draw the last message, at most every ``INTERVAL`` seconds."""
        now = time.monotonic()
        if self.enabled and now - self._drawn >= INTERVAL:
            self._drawn = now
            line = f"{now - self._started:6.1f} s  {_describe(progress)}"
            self._write("\r" + line[: shutil.get_terminal_size().columns - 1] + "\x1b[K")

    def clear(self) -> None:
        """Leave the line as it was found."""
        if self.enabled:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that went away is no reason to stop
            self._stream.write(text)
            self._stream.flush()


def deliver(
    answer: Answer, write: Callable[[str], object], *, witness: str | None, json_file: str | None,
    assignments: str | None = None,
) -> list[str]:  # fmt: skip
    """Print the verdict first, then write the files; what could not be written comes back as error lines.

    Raises BrokenPipeError, after the files, where nobody reads the verdict any more.
    """
    errors = [answer.error] if answer.error else []
    unread: BrokenPipeError | None = None
    try:
        write(answer.text)
    except BrokenPipeError as error:
        unread = error
    except OSError as error:
        errors.append(f"cannot write the verdict to standard output: {error.strerror}")
    files: list[tuple[str | None, Callable[[str], None]]] = [
        (witness if answer.witness else None, lambda path: write_text(path, answer.witness + "\n")),
        (json_file, lambda path: write_json(path, answer.report)),
        (assignments if answer.witness else None, lambda path: _write_assignments(path, answer)),
    ]
    for path, writer in files:
        if path is not None:
            try:
                writer(path)
            except OSError as error:
                errors.append(f"cannot write {path}: {error.strerror or error}; the verdict stands")
    if unread is not None and not errors:
        raise unread
    return errors
