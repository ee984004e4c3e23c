"""Properties of VNN-LIB 2, good and bad, that the official parser and provenn's strict one must judge alike."""

import random
import re

HEAD = "(vnnlib-version <2.0>)\n"
X, Y = "(declare-input X float32 [2])", "(declare-output Y float32 [1])"
F = f"(declare-network f {X} {Y})\n"
REAL = "(declare-network f (declare-input X real [2]) (declare-output Y real []))\n"
BOX = "(assert (and (>= X[0] 0.0) (<= X[0] 1.0) (>= X[1] 0.0) (<= X[1] 1.0)))\n"
U, V = "(declare-input U float32 [2])", "(declare-output V float32 [1])"

ASSERTIONS = """
(assert (<= Y[0] 1.0))|( assert (<= Y[0] 1.0))|(assert(<= Y[0] 1.0))|(assert (<=Y[0] 1.0))|(assert (<= Y[0]1.0))
(assert (<= Y [0] 1.0))|(assert (<= Y[ 0 ] 1.0))|(assert (<= Y[0] 1))|(assert (<= Y[0] -1.0))
(assert (<= Y[0] - 1.0))
(assert (<= Y[0] +1.0))|(assert (<= Y[0] .5))|(assert (<= Y[0] 5.))|(assert (<= Y[0] 1e-3))
(assert (<= Y[0] 1.0e3))
(assert (= Y[0] 1.0))|(assert (== Y[0] 1.0))|(assert (!= Y[0] 1.0))|(assert (< Y[0] 1.0))|(assert (> Y[0] 1.0))
(assert (<= (+ 0.0 Y[0]) 1.0))|(assert (and (<= Y[0] 1.0)))|(assert (or (<= Y[0] 1.0)))|(assert (and))
(assert (or))
(assert (not (<= Y[0] 1.0)))|(assert (=> (<= Y[0] 1.0) (<= Y[0] 1.0)))
(assert (ite (<= Y[0] 1.0) (<= Y[0] 1.0)))
(assert (<= X[2] 1.0))|(assert (<= X[00] 1.0))|(assert (<= X[01] 1.0))|(assert (<= X[02] 1.0))
(assert (<= X 1.0))
(assert (<= X[] 1.0))|(assert (<= X[0,0] 1.0))|(assert (<= X[0 0] 1.0))|(assert (<= X[0][0] 1.0))
(assert (<= X[a] 1.0))
(assert (<= X[,0] 1.0))|(assert (<= X[0,] 1.0))|(assert (<= X[0 1.0))|(assert (<= X0] 1.0))
(assert (<= Z[0] 1.0))
(assert (<= x[0] 1.0))|(assert (<= X_0 1.0))|(assert (<= f 1.0))|(assert (<= f[0] 1.0))|(assert (<= 'X'[0] 1.0))
(assert (<= (/ X[0] 2.0) 1.0))|(assert (<= (- X[0]) 1.0))|(assert (<= (+ X[0]) 1.0))|(assert (<= (* X[0]) 1.0))
(assert (<= (-) 1.0))|(assert (<= (+) 1.0))|(assert (<= (*) Y[0]))|(assert (<= (* X[0] X[0]) 1.0))
(assert (<= () 1.0))
(assert (<= (* X[0] Y[0]) 1.0))|(assert (<= X[0] Y[0]))|(assert (<= Y[0] X[0]))|(assert (< X[0] X[1]))
(assert (<= Y[0] Y[0]))
(assert (<= (- 1.0) Y[0]))|(assert (<= (- X[0] 1.0 X[1] Y[0]) Y[0]))|(assert (<= (-X[0]) 1.0))
(assert (<= (-1.0) Y[0]))
(assert (<= (+ X[0] 1) 1.0))|(assert (<= (* 2 X[0]) 1.0))|(assert (<= (* 2 3) Y[0]))|(assert (<= (- 1) Y[0]))
(assert (<= (+ (* 2.0 X[0]) (- Y[0] 0.5)) (* 3.0 (+ X[1] X[0]))))|(assert (<= (+X[0] X[1]) 1.0))
(assert (<= (*2.0 X[0]) 1.0))
(assert (<= X[0] 1.0 2.0))|(assert (<= X[0]))|(assert (<=))|(assert (<= X[0] 1.0) (<= X[1] 1.0))|(assert)
(assert ())
(assert X[0])|(assert 1.0)|(assert true)|(assert (<= X[0] (<= X[1] 1.0)))|(assert (<= X[0] (and)))
(assert (and X[0] Y[0]))
(assert (<= Y[0] 1.0)))|(assert (<= Y[0] 1.0)|(assert (<= Y[0] 1.0|((assert (<= Y[0] 1.0)))
(assert ((<= Y[0] 1.0)))
(assert (and (or (<= Y[0] 1.0) (> X[0] 0.5)) (!= Y[0] 0.25)))
(assert (and (assert (<= Y[0] 1.0)) (<= Y[0] 1.0)))
(assert (or (and (or (and (<= Y[0] 1.0))))))|(assert (Or (<= Y[0] 1.0)))
(assert (AND (<= Y[0] 1.0) (<= Y[0] 1.0)))
(Assert (<= Y[0] 1.0))|assert (<= Y[0] 1.0)|(<= Y[0] 1.0)|(check-sat)|(assert (<= Y[0] 1.0))(check-sat)
(set-logic QF_LRA)
(assert (<= Y[0] 1.0)) (declare-const X_0 Real)|(declare-const X_0 Real)|(assert (<= Y[0] 1.0)) garbage|garbage
(assert (<= Y[0] 99999999999999999999999999999999999999.0))|(assert (<= X[99999999999999999999999999] 1.0))
(assert (<= Y[0] 0001.0))|(assert (<= Y[0] -0.0))|(assert (<= Y[0] 1_0.0))|(assert (<= Y[0] 1.0.0))
(assert (<= Y[0] --1.0))
(assert (=< Y[0] 1.0))|(assert (<> Y[0] 1.0))|(assert (! Y[0] 1.0))|(assert (<= Y[0], 1.0))
(assert (<= Y[0] 1,0))
(assert (<= Y(0) 1.0))|(assert (<= Y[0] "1.0"))|(assert (<= Y[0] inf))|(assert (<= Y[0] nan))
(assert (<= Y[0] 0x1))
(assert (<= Y[0] 1.0)) ; comment ( "|; comment\\n(assert (<= Y[0] 1.0))|/* c */(assert (<= Y[0] 1.0))
(assert\\n(<=\\tY[0]\\r\\n1.0))
(assert (let ((a 1.0)) (<= Y[0] a)))|(assert (forall (<= Y[0] 1.0)))|(assert (xor (<= Y[0] 1.0) (<= Y[0] 2.0)))
(declare-network g (declare-input U float32 [2]) (declare-output V float32 [1]))
"""
DECLARATIONS = [
    Y + X, X, Y, "", X + Y + X, X + Y + Y,
    X + '(declare-hidden H float32 [3] "a b(c")' + Y, X + "(declare-hidden H float32 [3])" + Y,
    X + '(declare-hidden H float32 [] "a")' + '(declare-hidden I float32 [1,2] "b;")' + Y,
    X + '(declare-hidden H float32 [3] "a" "b")' + Y, X + "(declare-hidden H float32 [3] a)" + Y,
    X + '(declare-hidden H float32[3]"a")' + Y, X + '(declare-hidden H float32 [3] "a"!=)' + Y,
    X + '(declare-hidden H float32 [3] "a""b")' + Y, X + '(declare-hidden H float32 [3] "a\\"b")' + Y,
    X + '(declare-hidden H float32 "a" [3])' + Y,
    '(declare-hidden H float32 [3] "a")' + X + Y, X + Y + '(declare-hidden H float32 [3] "a")',
    '(declare-input X float32 [2] "x")' + Y, X + '(declare-output Y float32 [1] "y")',
    "(declare-input X float32 [2] initialized)" + Y, "(declare-input X [2])" + Y,
    "(declare-input float32 [2])" + Y,
    "(declare-input X float32)" + Y, "(declare-input X)" + Y, "(declare-input)" + Y,
    "(declare-input X float32 [2] [2])" + Y,
    "(declare-input X float32 [0])" + Y, "(declare-input X float32 [-2])" + Y,
    "(declare-input X float32 2)" + Y,
    "(declare-input X float32 (2))" + Y, "(declare-input X float32 [?])" + Y,
    "(declare-input X float32 [N])" + Y,
    "(declare-input X float32 [2,])" + Y, "(declare-input X float32 [,2])" + Y,
    "(declare-input X float32 [[2]])" + Y,
    "(declare-input X float32 [99999999999999999999999])" + Y, "(declare-input X float32 [02])" + Y,
    "(declare-input X float32[2])" + Y, "( declare-input X float32 [2])" + Y,
    "(declare-input X float32 [2]" + Y,
    "(declare-input\nX\tfloat32 [ 2 ])" + Y, X + "(declare-input X float32 [2])" + Y,
    X + "(declare-output X float32 [1])",
    "(declare-input X_1 float32 [2])" + X + Y, "(declare-input 1X float32 [2])" + X + Y,
    "(declare-input _X float32 [2])" + X + Y, "(declare-input X-1 float32 [2])" + X + Y,
    "(declare-input X.1 float32 [2])" + X + Y, "(declare-input and float32 [2])" + X + Y,
    "(declare-input assert float32 [2])" + X + Y, "(declare-input real float32 [2])" + X + Y,
    "(equal-to f)" + X + Y, "(equal-to g)" + X + Y, X + "(declare-const Z Real)" + Y,
    "(declare-input X float16 [2])(declare-output Y float16 [1])",
    "(declare-input X float64 [2])(declare-output Y float64 [1])",
]  # fmt: skip
SECOND = [
    "", "(equal-to f)", "(isomorphic-to f)", "(equal-to h)", "(equal-to g)", "(equal-to X)", "(same-as f)",
    "( equal-to f)",
    "(equal-to)", "(equal-to f f)", "equal-to f", "(isomorphic-to)", "(equal-to F)",
]  # fmt: skip
WHOLE = {
    "nothing": "", "parenthesis": "(", "closing": ")", "empty statement": HEAD + "()", "word": HEAD + "hello",
    "quote": HEAD + '"', "version only": HEAD, "no version": F + BOX, "no assertion": HEAD + F,
    "no network": HEAD + BOX,
    "assertion first": HEAD + BOX + F, "version last": F + BOX + HEAD, "two versions": HEAD + HEAD + F + BOX,
    "version 1": "(vnnlib-version <1.0>)" + F + BOX, "version 3": "(vnnlib-version <3.0>)" + F + BOX,
    "version 2": "(vnnlib-version <2>)" + F + BOX, "version 2.1": "(vnnlib-version <2.1>)" + F + BOX,
    "bare version": "(vnnlib-version 2.0)" + F + BOX, "blank in version": "(vnnlib-version < 2.0>)" + F + BOX,
    "blank before version": "( vnnlib-version <2.0>)" + F + BOX,
    "glued version": "(vnnlib-version<2.0>)" + F + BOX,
    "version in lines": "(vnnlib-version\n<2.0>\n)" + F + BOX,
    "version of words": "(vnnlib-version <two.0>)" + F + BOX,
    "windows": (HEAD + F + BOX).replace("\n", "\r\n"), "1.0": "(declare-const X_0 Real)(assert (<= X_0 1.0))",
    "scalar": HEAD + REAL + BOX + "(assert (<= Y 1.0))",
    "scalar with index": HEAD + REAL + BOX + "(assert (<= Y[0] 1.0))",
    "scalar with brackets": HEAD + REAL + BOX + "(assert (<= Y[] 1.0))",
    "real integer": HEAD + REAL + BOX + "(assert (<= Y 1))",
    "real product": HEAD + REAL + BOX + "(assert (<= X[0] (* 2 Y)))", "same network twice": HEAD + F + F + BOX,
    "chain": HEAD + F + f"(declare-network g (equal-to f) {U} {V})(declare-network h (equal-to g) "
    "(declare-input A float32 [2]) (declare-output B float32 [1]))" + BOX,
    "later": HEAD + f"(declare-network g (equal-to f) {U} {V})" + F + BOX,
    "other shape": HEAD + F + f"(declare-network g (equal-to f) (declare-input U float32 [3]) {V})" + BOX,
    "isomorphic of other shape": HEAD + F
    + f"(declare-network g (isomorphic-to f) (declare-input U float32 [3]) {V})" + BOX,
    "other type": HEAD + F + f"(declare-network g (equal-to f) (declare-input U float64 [2]) {V})" + BOX,
    "one more input": HEAD + F + f"(declare-network g (equal-to f) {U} (declare-input W float32 [2]) {V})" + BOX,
    "one more hidden": HEAD + F + f'(declare-network g (equal-to f) {U} (declare-hidden H float32 [3] "n") {V})' + BOX,
    "tensor twice": HEAD + F + f"(declare-network g (equal-to f) {X} {V})" + BOX,
    "name of a network twice": HEAD + F + f"(declare-network f (equal-to f) {U} {V})" + BOX,
    "no name": HEAD + f"(declare-network {X} {Y})" + BOX,
    "name with a hyphen": HEAD + f"(declare-network f-copy {X} {Y})" + BOX,
    "relation at the end": HEAD + F + f"(declare-network g {U} {V} (equal-to f))" + BOX,
    "relation behind inputs": HEAD + F + f"(declare-network g {U} (equal-to f) {V})" + BOX,
    "not ASCII": HEAD + F + BOX + "é", "not ASCII in a comment": HEAD + F + BOX + "; é",
}  # fmt: skip

# What the official parser (1.0.2) accepts or rejects against the standard, and why.
DEFECTS = {
    "(assert (<= X[-1] 1.0))": "accepts a negative index",
    "(assert (<= X[0.0] 1.0))": "accepts an index that is no whole number",
    "(declare-input X float32 [2.0])": "accepts a size that is no whole number",
    "(declare-input X flort [2])": "reads a misspelt type as unknown, silently",
    "(declare-input X Real [2])": "reads Real, which the standard writes real, as unknown, silently",
    "(declare-input X Float32 [2])": "reads a misspelt type as unknown, silently",
    "(assert (<= 0.0 1.0))": "accepts a comparison without variables, which has no type",
    "(assert (<= (+ 0.0 1.0) 1.0))": "accepts a comparison without variables, which has no type",
    "(assert (< 1 1))": "accepts a comparison without variables, which has no type",
    "(equal-to f)(isomorphic-to f)": "accepts two relations of one network; the standard has at most one",
    "(equal-to f)(equal-to f)": "accepts two relations of one network; the standard has at most one",
    "network X": "accepts a network with the name of a tensor; the standard has one space of names",
    "tensor f": "accepts a tensor with the name of its network; the standard has one space of names",
    "initialized in 2.1": "does not know `initialized`, which the grammar of 2.1 has",
}

_TOKENS = re.compile(r"\(assert|\(declare-\w+|\(equal-to|\(vnnlib-version|[()]|\[[^]]*\]|[^\s()\[\]]+")


def corpus() -> dict[str, str]:
    """{name: text}, the three examples of the documentation among them, and 60 mutations of those."""
    found = {line: HEAD + F + BOX + line for line in _lines(ASSERTIONS)}
    found |= {"network: " + text: HEAD + f"(declare-network f {text})\n" + BOX for text in DECLARATIONS}
    found |= {
        "relation: " + text: HEAD + F + f"(declare-network g {text} {U} {V})\n" + BOX + "(assert (== X[0] U[1]))"
        for text in SECOND
    }
    return found | WHOLE | mutations()


def defects() -> dict[str, str]:
    """{name: text} of what the official parser is known to judge against the standard."""
    found = {}
    for name in DEFECTS:
        if name.startswith("(assert"):
            found[name] = HEAD + F + BOX + name
        elif name.startswith("(declare-input"):
            found[name] = HEAD + f"(declare-network f {name} {name.replace('input X', 'output Y')})" + BOX
        elif name.startswith("(equal-to"):
            found[name] = HEAD + F + f"(declare-network g {name} {U} {V})" + BOX
    found["network X"] = HEAD + F + f"(declare-network X {U} {V})" + BOX
    found["tensor f"] = HEAD + f"(declare-network f (declare-input f float32 [2]) {X} {Y})" + BOX
    found["initialized in 2.1"] = (HEAD + F + BOX).replace("[2])", "[2] initialized)").replace("2.0", "2.1")
    return found


def _lines(text: str) -> list[str]:
    each = (one for line in text.strip().split("\n") for one in line.split("|") if one)
    return [one.encode().decode("unicode_escape") for one in each]


def mutations(count: int = 60) -> dict[str, str]:
    """Good properties with a token left out, doubled, or replaced by another of theirs; the seed is fixed."""
    second = f"(declare-network g (equal-to f) {U} {V})\n"
    good = [
        HEAD + F + BOX + "(assert (or (and (<= Y[0] 0.5) (>= X[1] 0.25)) (!= Y[0] (+ X[0] 2.0))))",
        HEAD + F + second + BOX + "(assert (and (== U[0] X[0]) (<= U[1] (* 2.0 X[1]))))\n(assert (< Y[0] V[0]))",
    ]
    generator = random.Random(5)
    found = {"good": good[0], "good pair": good[1]}
    for number in range(count):
        tokens = _TOKENS.findall(good[number % 2])
        place = generator.randrange(len(tokens))
        change = generator.choice(("", tokens[place] + " " + tokens[place], generator.choice(tokens)))
        tokens[place] = change
        found[f"mutation {number}: {change!r} at {place}"] = " ".join(tokens)
    return found
