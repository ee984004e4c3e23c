"""Certified accuracy over a data set: is every input around each of many images classified as its label says?

For the norm inf the region is a box and the answer that of ``verify``. For the norms 1 and 2 there is no search over
balls: bounds over the ball itself may prove it, so may a search over the box around the ball, and a violating input is
sought in a box within the ball. All three are sound; what none of them settles is ``unknown``.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from provenn.errors import InputError
from provenn.specs import Instance, ResultRow
from provenn.verifier import batch
from provenn.verifier.arguments import Networks
from provenn.verifier.options import Options
from provenn.verifier.result import Result

NORMS = ("inf", "2", "1")
BALL_SHARE, INNER_SHARE = 0.4, 0.3
"""Shares of the time that is left which bounds over a ball, and the search within it, may take."""


@dataclass(frozen=True, eq=False)
class Images:
    """Inputs ``[count, *shape]`` and their labels ``[count]``."""

    images: np.ndarray
    labels: np.ndarray


def read_images(path: str) -> Images:
    """The arrays ``images`` and ``labels`` of an ``.npz`` file. Raises InputError."""
    try:
        with open(path, "rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile) or not {"images", "labels"} <= set(file.files):
                raise InputError(f"{path}: expected an .npz file with the arrays 'images' and 'labels'")
            images, labels = file["images"], file["labels"]
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read as an .npz file ({error}); write it with numpy.savez") from None
    except Exception as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as an .npz file ({type(error).__name__}: {error})") from None
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or images.ndim < 2 or len(images) != len(labels):
        raise InputError(
            f"{path}: got images of shape {list(images.shape)} and labels of shape {list(labels.shape)} and type "
            f"{labels.dtype}, expected [count, ..] and as many whole numbers"
        )
    if not len(images):
        raise InputError(f"{path}: has no images")
    if images.dtype.kind not in "iuf" or not np.isfinite(images).all():
        raise InputError(f"{path}: images are not all finite numbers")
    return Images(images, labels)


def run(
    network: str, path: str, radii: Sequence[float], norm: str, within: tuple[float, float] | None, count: int | None,
    output: str, plan: batch.Plan, view: batch.View,
) -> list[ResultRow]:  # fmt: skip
    """A row for each of the first ``count`` images and each radius, resumable as in ``batch.run``.

    ``plan.timeout`` is needed. Raises InputError.
    """
    for radius in radii:
        if not 0 <= radius < math.inf:
            raise InputError(f"got --eps={radius!r}, expected a number of at least 0")
    if within is not None and not within[0] <= within[1]:
        raise InputError(f"got --within {within[0]!r} {within[1]!r}, expected the lowest number first")
    assert plan.timeout is not None
    data = read_images(path)
    asked: dict[str, dict[str, Any]] = {}
    instances = []
    for radius in dict.fromkeys(radii):
        for index, label in enumerate(data.labels[:count].tolist()):
            limits = "" if within is None else f" within {within[0]!r} {within[1]!r}"
            name = f"{path}[{index}] norm {norm} eps {radius!r}{limits}"
            asked[name] = {"index": index, "label": label, "radius": radius, "norm": norm, "within": within}
            instances.append(Instance(Path(path).stem, network, name, plan.timeout, Path()))
    with tempfile.TemporaryDirectory() as folder:
        unpacked = str(Path(folder, "images.npy"))  # of which a process reads its image alone
        np.save(unpacked, data.images[:count])

        def question(instance: Instance) -> dict[str, Any]:
            return {**asked[instance.property], "images": unpacked}

        rows = batch.run_instances(instances, output, replace(plan, question=question), view)
    return [row for row in rows if row.property in asked and row.network == network]


def accuracy(rows: Sequence[ResultRow]) -> list[str]:
    """Certified accuracy at each radius, and what it is at most."""
    lines = []
    for radius in dict.fromkeys(row.property.partition("] ")[2] for row in rows):
        chosen = [row.result for row in rows if row.property.partition("] ")[2] == radius]
        proven, refuted, count = chosen.count("unsat"), chosen.count("sat"), len(chosen)
        most = f", at most {(count - refuted) / count:.2%}" if proven + refuted < count else ""
        lines.append(
            f"{radius}: certified accuracy {proven / count:.2%}{most} "
            f"({count} images: {proven} robust, {refuted} not, {count - proven - refuted} open)"
        )
    return lines


# -- one image, in its process --------------------------------------------------------------------------------


def decide(network: Networks, question: dict[str, Any], options: Options, progress: Callable[..., None]) -> Result:
    """Decide about one image: ``unsat`` is robust, ``sat`` comes with an input that is classified otherwise."""
    from provenn.specs import robust
    from provenn.verifier import held
    from provenn.verifier.decide import verify

    path = str(network)
    graph = held.read_network(path)
    held.keep()
    index, label, radius = question["index"], question["label"], question["radius"]
    centre = np.array(np.load(question["images"], mmap_mode="r")[index], dtype=np.float64)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise InputError(f"{path}: has several inputs or outputs, expected one image and the scores of its classes")
    classes = graph.nodes[graph.outputs[0]].size
    if not 0 <= label < classes:
        raise InputError(f"image {index} has the label {label}, the network has {classes} outputs: labels begin with 0")
    centre = _placed(centre, graph.nodes[graph.inputs[0]].shape, path)
    within = None if question["within"] is None else tuple(question["within"])

    def box(half: float, timeout: float | None = None) -> Result:
        limited = options if timeout is None else replace(options, started=None, timeout=timeout)
        return verify(graph, robust(centre, label, half, classes, within), limited, progress)

    if question["norm"] == "inf":
        return box(radius)
    return _ball(graph, centre, int(question["norm"]), question, classes, options, progress, box)


def _ball(
    graph: Any, centre: np.ndarray, norm: int, question: dict[str, Any], classes: int, options: Options,
    progress: Callable[..., None], box: Callable[..., Result],
) -> Result:  # fmt: skip
    import torch

    from provenn.bounds import Ball, alpha

    label, radius, within = question["label"], question["radius"], question["within"]
    started = time.monotonic() if options.started is None else options.started

    def left() -> float:
        return max(0.1, started + options.timeout - time.monotonic())

    if within is not None and ((centre < within[0]) | (centre > within[1])).any():
        raise InputError(f"image {question['index']} leaves what --within says that inputs can be")
    progress("bounds over the ball")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    others = [other for other in range(classes) if other != label]
    rows = torch.zeros(len(others), classes, dtype=torch.float64)
    rows[:, label] = 1.0
    rows[range(len(others)), others] = -1.0
    rows = rows.view(len(others), *graph.nodes[graph.outputs[0]].shape)
    region = Ball(torch.from_numpy(centre), radius, norm, None if within is None else tuple(within))
    lowest = float(alpha(graph, region, rows=rows, seconds=BALL_SHARE * left()).lower.min()) if others else math.inf
    if lowest > 0:
        statistics = {"seconds": round(time.monotonic() - started, 3)}
        return Result("unsat", "bounds over the ball prove it", None, lowest, statistics)
    inner = box(radius / centre.size ** (1 / norm) * (1 - 1e-6), INNER_SHARE * left())
    if inner.verdict == "sat" and _inside(inner, centre, radius, norm):
        return inner
    outer = box(radius)
    if outer.verdict == "unsat" or (outer.verdict == "sat" and _inside(outer, centre, radius, norm)):
        return outer
    reason = f"bounds over the ball reach {lowest:.4g}, and "
    if outer.verdict == "sat":
        return replace(
            outer, verdict="unknown", witness=None,
            reason=f"{reason}the violating input that was found is in the box around the ball only",
        )  # fmt: skip
    return replace(outer, reason=f"{reason}over the box around it: {outer.reason}")


def _inside(result: Result, centre: np.ndarray, radius: float, norm: int) -> bool:
    """Whether a witness is in the ball, exactly."""
    assert result.witness is not None
    point = np.asarray(result.witness.inputs, dtype=np.float64).reshape(-1)
    apart = [abs(Fraction(x) - Fraction(c)) for x, c in zip(point.tolist(), centre.reshape(-1).tolist(), strict=True)]
    return sum(one**norm for one in apart) <= Fraction(radius) ** norm


def _placed(image: np.ndarray, shape: tuple[int, ...], path: str) -> np.ndarray:
    """The image as the network takes it: leading ones may be left out, or all dimensions be one."""

    def bare(one: tuple[int, ...]) -> tuple[int, ...]:
        while one[:1] == (1,):
            one = one[1:]
        return one

    if bare(image.shape) == bare(shape) or (image.ndim == 1 and image.size == math.prod(shape)):
        return image.reshape(shape)
    raise InputError(f"{path}: takes inputs of shape {list(shape)}, the images have the shape {list(image.shape)}")
