"""The local Lipschitz constant of a network around a point, against the radius: a worked example.

Usage: pip install '.[plot]', then
python docs/lipschitz_over_radius.py NET.onnx constant.png --norm 2 --radii 0.001 0.01 0.1 1
Draws the proven bounds of the constant over cubes around the middle of the unit box; the constant lies in the band.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from provenn.bounds.graph import read_onnx
from provenn.errors import ProvennError
from provenn.verifier import LipschitzResult, local_lipschitz


def constants(
    network: Path, radii: list[float], norm: str, timeout: float, centre: float
) -> list[LipschitzResult]:
    """The constant over every cube; each holds the smaller ones, so bounds of one are bounds of others."""
    graph = read_onnx(network)
    middle = np.full(graph.nodes[graph.inputs[0]].size, centre)
    found = []
    for radius in radii:
        one = local_lipschitz(graph, middle - radius, middle + radius, norm, timeout=timeout)
        print(f"radius {radius:g}: {one.lower:.6g} to {one.upper:.6g}, {one.domains} domains, {one.seconds:.1f} s")
        found.append(one)
    return found


def draw(radii: list[float], found: list[LipschitzResult], norm: str, picture: Path) -> None:
    from matplotlib.figure import Figure

    lower = np.maximum.accumulate([one.lower for one in found])
    upper = np.minimum.accumulate([one.upper for one in found][::-1])[::-1]
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(radii, lower, upper, alpha=0.3, label="the constant is in here")
    axes.plot(radii, upper, "s-", label="proven")
    axes.plot(radii, lower, "o--", label="attained")
    axes.set(xscale="log", xlabel="radius of the cube", ylabel=f"local Lipschitz constant, norm {norm}")
    axes.legend()
    figure.savefig(picture)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws a network's local Lipschitz constant against the radius.")
    parser.add_argument("network", type=Path, metavar="NET.onnx")
    parser.add_argument("picture", type=Path, metavar="PICTURE", help="a file that matplotlib can write: png, pdf, svg")
    parser.add_argument("--radii", type=float, nargs="+", default=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
    parser.add_argument("--norm", default="2", choices=["1", "2", "inf"])
    parser.add_argument("--centre", type=float, default=0.5, help="every coordinate of the centre (0.5)")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds for each radius (20)")
    given = parser.parse_args()
    radii = sorted(given.radii)
    if not 0 < radii[0] <= radii[-1] < float("inf"):
        parser.error("--radii: expected finite positive numbers")
    try:
        import matplotlib.figure  # noqa: F401 (needed at the end, missed at once)

        given.picture.touch()
        found = constants(given.network, radii, given.norm, given.timeout, given.centre)
        draw(radii, found, given.norm, given.picture)
    except ImportError as error:
        parser.exit(1, f"{parser.prog}: {error}; pip install '.[plot]'\n")
    except (ProvennError, OSError, ValueError) as error:  # ValueError: a format unknown to matplotlib
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
