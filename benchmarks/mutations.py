"""Seeded bugs of searches, proofs and the import, for ``mutation.py``."""

from __future__ import annotations

from dataclasses import dataclass

BOUNDS = ("tests/soundness/test_bounds.py",)
ROUNDING = ("tests/soundness/test_rounding.py",)
FORWARD = ("tests/soundness/test_forward.py",)
MARGINS = ("tests/soundness/test_margins.py",)
CLAUSES = ("tests/soundness/test_clauses.py",)
CONJUNCTION = ("tests/propagate/test_conjunction.py",)
FORMS = ("tests/propagate/test_quadratic.py", "tests/soundness/test_products.py")
LEAF = ("tests/verifier/test_leaf.py",)


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
        "maximum tree adds the wrong operand",
        "bounds/graph/lattice.py",
        'return self.push(like, "add", y, self.excess(like, x, y))',
        'return self.push(like, "add", x, self.excess(like, x, y))',
        ("tests/graph/test_lattice.py",),
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
        "bounds/propagate/interval.py",
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
        "return *clip_box(lower, upper, a[:, :, self.free], _below(value, threshold)), a",
        "return *clip_box(lower, upper, a[:, :, self.free].roll(1, 0), _below(value, threshold).roll(1, 0)), a",
        (*BOUNDS, *CLAUSES),
    ),
    Mutation(
        "wrong box of a clause",
        "verifier/rebound.py",
        "        box = self.clauses.box\n        return self.rooted",
        "        box = torch.zeros_like(self.clauses.box)\n        return self.rooted",
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
        "verifier/halving.py",
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
        "too little room for a checker's rounding",
        "specs/_polynomials.py",
        "return rounds * self.unit / (1 - rounds * self.unit)",
        "return rounds * self.unit / (8 - rounds * self.unit)",
        ("tests/specs/test_random_version2.py",),
    ),
    Mutation(
        "no room for underflow",
        "specs/_polynomials.py",
        "size[()] = size.get((), Fraction(0)) + self.format.smallest",
        "size[()] = size.get((), Fraction(0))",
        ("tests/specs/test_random_version2.py",),
    ),
    Mutation(
        "literals are judged by one reading",
        "specs/_programs.py",
        "for in_type in (False, True))",
        "for in_type in (True,))",
        ("tests/specs/test_random_version2.py",),
    ),
    Mutation(
        "boxes by relations are too small",
        "specs/_relations.py",
        "bound = self.right[row] - others + doubt",
        "bound = self.right[row] - others - 1e-3",
        ("tests/specs/test_random_version2.py",),
    ),
    Mutation(
        "witness accepted within a tolerance",
        "specs/_query.py",
        "less = np.where(atoms.strict, value < right, value <= right)",
        "less = np.where(atoms.strict, value < right, value <= right + 1e-6)",
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
        "radii of constants are forgotten in backward passes",
        "bounds/propagate/rounding.py",
        "        self.radii[index] = radii",
        "        self.radii[index] = 0 * radii",
        ("tests/propagate/test_constants.py",),
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
        "bounds/graph/_importers.py",
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
        "quadratic form without what its factors lack",
        "bounds/propagate/quadratic.py",
        "rest = p * v.epsilon + q * u.epsilon + u.epsilon * v.epsilon",
        "rest = u.epsilon * v.epsilon",
        FORMS,
    ),
    Mutation(
        "quadratic form without its indefinite rest",
        "bounds/propagate/quadratic.py",
        "return tangent, squares + lost, size",
        "return tangent, squares + 0 * lost, size",
        FORMS,
    ),
    Mutation(
        "a ball is as large as its largest element says",
        "bounds/propagate/ball.py",
        "        return share.square_().sum(axes, keepdim=True).sqrt() * largest, largest",
        "        return largest, largest",
        ("tests/bounds/test_bound.py",),
    ),
    Mutation(
        "an upper line has the slopes of minus the row",
        "bounds/_bound.py",
        "above = Line(tuple(-pair[1] for pair in slopes), -minus_offset, many)",
        "above = Line(tuple(pair[1] for pair in slopes), -minus_offset, many)",
        ("tests/bounds/test_bound.py",),
    ),
    Mutation(
        "operators in place change nothing else",
        "bounds/graph/_module.py",
        "    if not _mutates(node):\n        return False\n    written",
        "    if True:\n        return False\n    written",
        ("tests/graph/test_module.py",),
    ),
    Mutation(
        "a module is not compared with its graph",
        "bounds/graph/_module.py",
        "    if sorted(worst)[_POINTS // 2] > _TOLERANCE:",
        "    if sorted(worst)[_POINTS // 2] > torch.inf:",
        ("tests/graph/test_module.py",),
    ),
    Mutation(
        "the opposite of a strict comparison is strict",
        "specs/_build.py",
        "self.row.times(Fraction(-1)), not self.strict)",
        "self.row.times(Fraction(-1)), self.strict)",
        ("tests/specs/test_build.py",),
    ),
    Mutation(
        "the network's own element type is not the query's",
        "verifier/given.py",
        "query = replace(query, output_count=sizes[1], element_type=_element_type(graph), all_outputs=True)",
        "query = replace(query, output_count=sizes[1], all_outputs=True)",
        ("tests/verifier/test_python.py",),
    ),
)
