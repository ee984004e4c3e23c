"""Seeded bugs: each must make the test suite fail.

Usage: python benchmarks/mutation.py [--only NAME ...] [--keep]
Copies the repository, applies one text replacement at a time (it must match exactly once, so that it fails loudly when
the code has changed), and runs the tests named for it. Prints killed or survived; exits 1 unless all are killed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOUNDS = ("tests/soundness/test_bounds.py",)
ROUNDING = ("tests/soundness/test_rounding.py",)
FORWARD = ("tests/soundness/test_forward.py",)
MARGINS = ("tests/soundness/test_margins.py",)
CLAUSES = ("tests/soundness/test_clauses.py",)
CONJUNCTION = ("tests/propagate/test_conjunction.py",)
LEAF = ("tests/verifier/test_leaf.py",)


def held(*labels: str) -> tuple[str, ...]:
    """Tests that the bounds of these operators hold."""
    return tuple(f"tests/ops/test_conformance.py::test_bounds_hold[{label}]" for label in labels)


@dataclass(frozen=True)
class Mutation:
    """A bug: ``old`` (once in ``file``) becomes ``new``; ``tests`` are where it must show."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "wrong sign of a split multiplier",
        "bounds/propagate/objective.py",
        "signed = beta * self.splits.sign[segment.index].unsqueeze(1)",
        "signed = -beta * self.splits.sign[segment.index].unsqueeze(1)",
        BOUNDS,
    ),
    Mutation(
        "unclamped split multiplier",
        "bounds/propagate/objective.py",
        "low = torch.zeros_like(sign)",
        "low = torch.full_like(sign, -torch.inf)",
        BOUNDS,
    ),
    Mutation(
        "dropped rounding of a conjunction's sums",
        "bounds/propagate/conjunction.py",
        "slack = terms * gamma(self.count + 4, weights.dtype)",
        "slack = 0 * terms * gamma(self.count + 4, weights.dtype)",
        CONJUNCTION,
    ),
    Mutation(
        "threshold of a combination without its weights",
        "bounds/propagate/conjunction.py",
        "margin = bound - self._total(weights, self.threshold)",
        "margin = bound - self.threshold.amin(1, keepdim=True)",
        (*CONJUNCTION, *BOUNDS),
    ),
    Mutation(
        "missing candidate of a support function",
        "bounds/ops/piecewise.py",
        "return [(limit, None, None) for limit in _limits(p) if limit is not None]",
        "return [(limit, None, None) for limit in _limits(p) if limit is not None][:1]",
        (*held("clip"), *BOUNDS),
    ),
    Mutation(
        "wrong upper offset of relu",
        "bounds/ops/piecewise.py",
        "bu = torch.maximum(-ku * low, high - product)",
        "bu = 0.9 * torch.maximum(-ku * low, high - product)",
        (*held("relu"), *BOUNDS),
    ),
    Mutation(
        "lower plane of max pooling above the maximum",
        "bounds/ops/minmax.py",
        "slopes = zero.scatter(-1, (lower + upper).nan_to_num(nan=-torch.inf).argmax(-1, keepdim=True), 1.0)",
        "slopes = zero.scatter(-1, (lower + upper).nan_to_num(nan=-torch.inf).argmax(-1, keepdim=True), 1.1)",
        ("tests/ops/test_planes.py",),
    ),
    Mutation(
        "transposed convolution ignores the padding",
        "bounds/ops/conv.py",
        'y = _spread(prepared, flat, weight, derived["begin"], derived["wide"])',
        'y = _spread(prepared, flat, weight, (0, 0), derived["wide"])',
        ("tests/graph/test_linear_operators.py", *BOUNDS),
    ),
    Mutation(
        "maximum tree adds the wrong operand",
        "bounds/graph/lattice.py",
        'return self.push(like, "add", y, self.excess(like, x, y))',
        'return self.push(like, "add", x, self.excess(like, x, y))',
        ("tests/graph/test_lattice.py",),
    ),
    Mutation(
        "interval not rounded outward",
        "bounds/ops/_outward.py",
        "lower, upper = lower - error, upper + error",
        "lower, upper = lower + 0 * error, upper + 0 * error",
        ROUNDING,
    ),
    Mutation(
        "error term of a form dropped",
        "bounds/propagate/forward.py",
        "half[:, -1] += size * ((operator.length(prepared) + 8) * UNIT * _UP) + TINY",
        "half[:, -1] += 0 * size",
        FORWARD,
    ),
    Mutation(
        "forms take the wrong side of a line",
        "bounds/propagate/forward.py",
        "low, high = lower.abs(), upper.abs()",
        "high, low = lower.abs(), upper.abs()",
        FORWARD,
    ),
    Mutation(
        "fixed inputs fold without their radius",
        "bounds/graph/specialise.py",
        "error = error + known.radius @ (size + radii) + np.abs(known.value) @ (np.zeros_like(matrix) + radii)",
        "error = 0 * error",
        ("tests/graph/test_specialise.py",),
    ),
    Mutation(
        "error term of the backward pass dropped",
        "bounds/propagate/rounding.py",
        "result = bound - error",
        "result = bound - 0 * error",
        ROUNDING,
    ),
    Mutation(
        "float32 facts not rounded outward",
        "verifier/root.py",
        "lower = torch.where(lower.double() > box[0], torch.nextafter(lower, -infinity), lower)",
        "lower = torch.where(lower.double() > box[0], lower, lower)",
        ROUNDING,
    ),
    Mutation(
        "merged bound taken as it is (looser, or not a number)",
        "bounds/propagate/intermediate.py",
        "low[:, elements] = torch.fmax(low[:, elements], lower)",
        "low[:, elements] = lower",
        CLAUSES,
    ),
    Mutation(
        "clip of one disjunct used for another",
        "verifier/rebound.py",
        "return *clip_box(lower, upper, a[:, :, self.free], margin), a",
        "return *clip_box(lower, upper, a[:, :, self.free].roll(1, 0), margin.roll(1, 0)), a",
        (*BOUNDS, *CLAUSES),
    ),
    Mutation(
        "wrong box of a clause",
        "verifier/rebound.py",
        "        box = self.clauses.box\n        return {",
        "        box = torch.zeros_like(self.clauses.box)\n        return {",
        CLAUSES,
    ),
    Mutation(
        "clauses proven in the first box only",
        "verifier/decide.py",
        "clauses.only(mine, box)",
        "clauses.only(mine, 0)",
        CLAUSES,
    ),
    Mutation(
        "clip ends a rounding too early",
        "verifier/clip.py",
        "ceiling = torch.nextafter(lower.unsqueeze(1) + reach, infinity)",
        "ceiling = (lower.unsqueeze(1) + reach) * (1 - 1e-12)",
        ROUNDING,
    ),
    Mutation(
        "split drops one child",
        "verifier/fixed.py",
        "torch.cat([below[name], above[name]])",
        "torch.cat([above[name], above[name]])",
        BOUNDS,
    ),
    Mutation(
        "split leaves one side of the box out",
        "verifier/rebound.py",
        'right = dict(fields, lower=fields["lower"].scatter(1, axis, middle))',
        'right = dict(fields, lower=fields["lower"].scatter(1, axis, middle + 0.1 * (upper - lower)))',
        BOUNDS,
    ),
    Mutation(
        "pool loses domains",
        "verifier/pool.py",
        "column[holes] = column[movers]",
        "pass",
        ("tests/verifier/test_pool.py",),
    ),
    Mutation(
        "leaf accepted without confirmation in float64",
        "verifier/fixed.py",
        "refuted[index] = confirmed",
        "pass",
        MARGINS,
    ),
    Mutation(
        "linear program believed without proof",
        "verifier/leaf.py",
        "if proven > 0:",
        "if found.empty or found.margin > 0:",
        MARGINS,
    ),
    Mutation(
        "multiplier of a program at the wrong end",
        "verifier/leaf.py",
        "term = multiplier * (ends[0] if multiplier > 0 else ends[1])",
        "term = multiplier * (ends[1] if multiplier > 0 else ends[0])",
        (*LEAF, *BOUNDS),
    ),
    Mutation(
        "the point of a jump belongs to no child",
        "verifier/leaf.py",
        "pieces = [((point, point), (point, point))]",
        "pieces = []",
        LEAF,
    ),
    Mutation(
        "clipped by the wrong side of a split",
        "verifier/planes.py",
        "-self.c[row] - side.double() * end",
        "-self.c[row] + side.double() * end",
        (*BOUNDS, "tests/verifier/test_planes.py"),
    ),
    Mutation(
        "best instead of worst leaf of a refinement",
        "verifier/refine.py",
        'torch.nan_to_num(bound, nan=-torch.inf), "amin")',
        'torch.nan_to_num(bound, nan=-torch.inf), "amax", include_self=False)',
        BOUNDS,
    ),
    Mutation(
        "a jump of a table without its limit from the left",
        "bounds/ops/pieces.py",
        "torch.maximum(left, right)",
        "right",
        ("tests/graph/test_univariate.py",),
    ),
    Mutation(
        "a fragment of one variable that is read elsewhere",
        "bounds/graph/univariate.py",
        "if len(ends) == 1 and",
        "if ends and",
        ("tests/graph/test_univariate.py",),
    ),
    Mutation(
        "threshold not above the decimal literal",
        "specs/_literals.py",
        "above = np.where(exact, nearest, np.nextafter(nearest, np.inf))",
        "above = np.where(exact, nearest, np.nextafter(nearest, -np.inf))",
        ("tests/specs/test_literals.py", "tests/specs/test_read.py"),
    ),
    Mutation(
        "witness accepted within a tolerance",
        "specs/_query.py",
        "truth = np.where(atoms.strict, value < right, value <= right)",
        "truth = np.where(atoms.strict, value < right, value <= right + 1e-6)",
        ("tests/verifier/test_replay.py", "tests/specs"),
    ),
    Mutation(
        "jumps of two functions change sides together always",
        "bounds/graph/_piecewise.py",
        "    if any(t - s <= reach for (s, _), (t, _) in pairwise(jumps)):",
        "    if any(t - s < 0 for (s, _), (t, _) in pairwise(jumps)):",
        ("tests/graph/test_univariate.py",),
    ),
    Mutation(
        "relus of parallel branches share their generators",
        "bounds/propagate/zonotope.py",
        "        first = columns - generators.shape[1]",
        "        first = 0",
        ("tests/soundness/test_zonotope.py",),
    ),
    Mutation(
        "scattered positions below zero are not counted from the end",
        "bounds/ops/opaque.py",
        "                reach = reach | ((a <= along - extent) & (along - extent <= b))",
        "                reach = reach | ((a <= along - extent) & (along - extent < a))",
        ("tests/graph/test_interval_operators.py",),
    ),
    Mutation(
        "radii of constants are forgotten in backward passes",
        "bounds/propagate/rounding.py",
        "        self.radii[index] = radii",
        "        self.radii[index] = 0 * radii",
        ("tests/propagate/test_constants.py",),
    ),
    Mutation(
        "a cast's type holds everything",
        "bounds/ops/discrete.py",
        "    held = (lower >= first) & (upper <= last)",
        "    held = lower <= upper",
        ("tests/graph/test_operators.py",),
    ),
    Mutation(
        "padding fills a constant's radius",
        "bounds/graph/_import_structure.py",
        "filled(x.radius, 0.0)",
        "filled(x.radius, number)",
        ("tests/verifier/test_import_truth.py",),
    ),
    Mutation(
        "constants are negated in their own type",
        "bounds/graph/_constants.py",
        "array = x.value if large or (array == np.iinfo(np.int64).min).any() else array.astype(np.int64)",
        "array = x.array",
        ("tests/verifier/test_import_truth.py",),
    ),
    Mutation(
        "arithmetic of integers has no end",
        "bounds/graph/_onnx.py",
        'np.dtype(name).kind not in "iu" or name == "int64"',
        'name == name',
        ("tests/graph/test_operators.py",),
    ),
    Mutation(
        "columns that overflow are equal",
        "bounds/graph/_merge.py",
        "exact = np.isfinite(scaled).all() and (scaled * scale[j] == column).all()",
        "exact = True",
        ("tests/verifier/test_import_truth.py",),
    ),
    Mutation(
        "half of the stationary points of sin",
        "bounds/ops/smooth.py",
        "for start in (angle, -angle)]",
        "for start in (angle, angle)]",
        held("sin"),
    ),
    Mutation(
        "stationary points of cos with the wrong sign",
        "bounds/ops/smooth.py",
        "for start in (-angle, math.pi + angle)]",
        "for start in (angle, math.pi + angle)]",
        held("cos"),
    ),
    Mutation(
        "no negative root of a power",
        "bounds/ops/smooth.py",
        "return [(x, None, None), (-x, None, None), (0.0, -torch.inf, torch.inf) if n < 0",
        "return [(x, None, None), (x, None, None), (0.0, -torch.inf, torch.inf) if n < 0",
        held("pow 4"),
    ),
    Mutation(
        "no pole of the reciprocal",
        "bounds/ops/smooth.py",
        "return [(x, None, None), (-x, None, None), (0.0, -torch.inf, torch.inf)]",
        "return [(x, None, None), (-x, None, None)]",
        held("reciprocal around 0"),
    ),
    Mutation(
        "derivative of erf with the wrong factor",
        "bounds/ops/smooth.py",
        "torch.log(k * (math.sqrt(math.pi) / 2))",
        "torch.log(k * (2 / math.sqrt(math.pi)))",
        held("erf"),
    ),
    Mutation(
        "roots of the least slopes",
        "bounds/ops/smooth.py",
        "min=info.tiny * info.eps, max=most",
        "min=info.tiny, max=most",
        ("tests/ops/test_conformance.py::test_a_slope_of_the_reciprocal_below_the_normal_range",),
    ),
    Mutation(
        "a lost root of selu without its slack",
        "bounds/ops/smooth.py",
        "return [zero, (inner, None, lost)]",
        "return [zero, (inner, None, None)]",
        held("selu standard"),
    ),
    Mutation(
        "elu linear where only the upper end is positive",
        "bounds/ops/smooth.py",
        'return lower >= 0, p.tensors.get("gamma", 1.0), 0.0',
        'return upper >= 0, p.tensors.get("gamma", 1.0), 0.0',
        held("elu"),
    ),
    Mutation(
        "a bracketed root without the slack of its bracket",
        "bounds/ops/_bracketed.py",
        "found.append((low, rate * (high - low) + noise))",
        "found.append((low, 0 * rate))",
        held("gelu", "mish"),
    ),
    Mutation(
        "offsets without the slack of their evaluation",
        "bounds/ops/relaxation.py",
        "return error + rounding + (point != 0).to(point.dtype) * info.tiny",
        "return 0 * (error + rounding)",
        held("tanh", "pow 3"),
    ),
    Mutation(
        "images of increasing functions not rounded outward",
        "bounds/ops/smooth.py",
        "a, b = outward(evaluate(p, lower), evaluate(p, upper))",
        "a, b = evaluate(p, lower), evaluate(p, upper)",
        held("sigmoid"),
    ),
    Mutation(
        "a break point of the hard sigmoid off by rounding",
        "bounds/ops/piecewise.py",
        "return torch.where(saturated, 0.0, rounding)",
        "return torch.where(saturated, 0.0, 0 * rounding)",
        held("hard_sigmoid", "hard_sigmoid 1/6"),
    ),
    Mutation(
        "floor without its last jump",
        "bounds/ops/_jumps.py",
        "first, last = torch.floor(lower) + 1, torch.floor(upper)",
        "first, last = torch.floor(lower) + 1, torch.floor(upper) - 1",
        held("floor"),
    ),
    Mutation(
        "planes without their rounding",
        "bounds/ops/_planes.py",
        "(slack * info.eps + 3 * info.tiny * nonzero).detach()",
        "(0 * slack).detach()",
        held("mul both operands"),
    ),
    Mutation(
        "a maximum's lower plane without the diagonal",
        "bounds/ops/minmax.py",
        "lower = lower_plane(torch.maximum, corners(x, y) + meets, below",
        "lower = lower_plane(torch.maximum, corners(x, y), below",
        held("max operand 0", "max both operands"),
    ),
    Mutation(
        "a quotient's planes without stationary points",
        "bounds/ops/products.py",
        "points.append((end, torch.minimum(torch.maximum(root, y[0]), y[1])))",
        "points.append((end, y[0]))",
        held("div operand 0", "div operand 1"),
    ),
    Mutation(
        "a window's upper plane by its first element",
        "bounds/ops/minmax.py",
        "offset = swing.amax(-1) - at_low.sum(-1)",
        "offset = swing[..., 0] - at_low.sum(-1)",
        held("window_max"),
    ),
    Mutation(
        "sums of planes rounded inward",
        "bounds/ops/products.py",
        "(plane.offset.sum(-2) + side * slack)",
        "(plane.offset.sum(-2) - 8 * side * slack)",
        held("matmul both operands"),
    ),
    Mutation(
        "exponentials that underflow are exact",
        "bounds/ops/softmax.py",
        "first = torch.where(low < tiny, 0.0, ",
        "first = torch.where(low < 0, 0.0, ",
        ("tests/ops/test_conformance.py::test_softmax_whose_exponentials_underflow", *held("softmax axis 1")),
    ),
    Mutation(
        "ties of the largest element",
        "bounds/ops/discrete.py",
        "possible = upper >= lower.amax(axis, keepdim=True)",
        "possible = upper > lower.amax(axis, keepdim=True)",
        held("argmax axis 1", "argmax axis 1 last"),
    ),
    Mutation(
        "a class that is possible is certain",
        "bounds/ops/discrete.py",
        "certain = (lower == upper) & possible",
        "certain = possible",
        held("one_hot 1.0 0.0"),
    ),
)


def copy(folder: Path) -> Path:
    """The working tree as a package ``provenn`` of its own."""
    target = folder / "provenn"
    skip = shutil.ignore_patterns(".git", "build", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, target, ignore=skip)
    return target


def run(target: Path, tests: tuple[str, ...], limit: float) -> tuple[int, str]:
    """Run tests in a copy: (exit status of pytest, its last lines)."""
    environment = os.environ | {
        "PYTHONPATH": str(target.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=target, env=environment, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return -1, f"no answer within {limit:.0f} s"
    return done.returncode, "\n".join(done.stdout.strip().splitlines()[-4:])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="*", help="parts of names of mutations")
    parser.add_argument("--limit", type=float, default=600, help="seconds for the tests of one mutation")
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS if not arguments.only or any(part in m.name for part in arguments.only)]
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        target = copy(Path(folder))
        for mutation in chosen:
            text = (target / mutation.file).read_text()
            if text.count(mutation.old) != 1:
                print(
                    f"{mutation.name}: {mutation.file} has the text {text.count(mutation.old)} times, expected once"
                )
                return 2
        tests = tuple(sorted({test for mutation in chosen for test in mutation.tests}))
        status, tail = run(target, tests, 2 * arguments.limit)
        if status != 0:
            print(f"the tests fail without any mutation:\n{tail}")
            return 2
        for mutation in chosen:
            file = target / mutation.file
            text = file.read_text()
            file.write_text(text.replace(mutation.old, mutation.new))
            begun = time.monotonic()
            status, tail = run(target, mutation.tests, arguments.limit)
            file.write_text(text)
            killed = status == 1
            print(
                f"{'killed' if killed else 'SURVIVED':9} {mutation.name} ({time.monotonic() - begun:.0f} s)",
                flush=True,
            )
            if not killed:
                survived.append(mutation.name)
                print(tail)
    print(f"{len(chosen) - len(survived)} of {len(chosen)} killed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
