"""Draw the pictures of the front pages and the README: `python book/images.py`.

Each picture is computed with `diffopt` and written to `book/_images`. The colours are chosen to
read on white and on black, so that one file serves both.
"""

from __future__ import annotations

from itertools import combinations, permutations
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import style
from scipy.spatial import ConvexHull

import diffopt
from book.data import make_correlated
from book.experiments import perturbed_paths
from diffopt.soft_dtw import expected_alignment

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgb

IMAGES = Path(__file__).parent / "_images"
GREY = "#808890"
COLORS = (style.GREEN, style.AMBER, style.ORANGE)  # epsilon grows from the first to the last
EPSILON = LinearSegmentedColormap.from_list("epsilon", COLORS)
VALUES = np.array([-1.2, -0.85, -0.05, 1.05])
LABEL = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 9.5}
STYLE = {
    "svg.hashsalt": "diffopt",
    "savefig.transparent": True,
    "font.size": 11,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def sorting() -> plt.Figure:
    """The rank of one value among four fixed ones while it moves from -3 to 3."""
    moving = np.linspace(-3.0, 3.0, 601)
    fixed = np.array([-2.0, -0.5, 0.4, 2.0])
    rows = np.column_stack([moving, np.tile(fixed, (len(moving), 1))])
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    axes.step(moving, 1 + (moving[:, None] > fixed).sum(1), color=GREY, linewidth=1.4, label="hard")
    for epsilon, color in zip((0.5, 1.5, 5.0), COLORS, strict=True):
        ranks = diffopt.soft_rank(rows, epsilon=epsilon)[:, 0]
        axes.plot(moving, ranks, color=color, linewidth=2.2, label=rf"$\varepsilon$ = {epsilon:g}")
    axes.set(xlabel="value", ylabel="rank among five", yticks=range(1, 6), xlim=(-3, 3))
    axes.legend(loc="upper left", labelcolor=GREY)
    return figure


def fenchel_young() -> plt.Figure:
    """The probability of one of three classes, as its score goes from -3 to 3."""
    score = np.linspace(-3.0, 3.0, 601)
    theta = np.column_stack([score, np.zeros((len(score), 2))])
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    axes.step([-3, 0, 3], [0, 0, 1], color=GREY, linewidth=1.4, label="hard")
    maps = {"sparsemax": 2.0, r"1.5-entmax": 1.5, "softmax": 1.0}
    for (name, alpha), color in zip(maps.items(), COLORS, strict=True):
        p = diffopt.entmax(theta, alpha)[:, 0]
        axes.plot(score, p, color=color, linewidth=2.2, label=name)
    axes.set(xlabel="score", ylabel="probability among three", xlim=(-3, 3), yticks=(0, 0.5, 1))
    axes.legend(loc="upper left", labelcolor=GREY)
    return figure


def structured() -> plt.Figure:
    """Points around the unit square, and their projections onto it and onto its lower half."""
    angle = np.linspace(0, 2 * np.pi, 13)[:-1] + 0.13
    theta = 0.5 + 1.15 * np.column_stack([np.cos(angle), np.sin(angle)])
    square = np.asarray(diffopt.project_box(theta))
    half = np.asarray(diffopt.project_knapsack(theta, 0, 1))
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    axes.fill([0, 1, 1, 0], [0, 0, 1, 1], color=COLORS[0], alpha=0.25, label="unit square")
    axes.fill([0, 1, 0], [0, 0, 1], color=COLORS[2], alpha=0.35, label="at most one of two")
    for start, middle, end in zip(theta, square, half, strict=True):
        axes.plot(*np.stack([start, middle]).T, color=COLORS[0], linewidth=1.6)
        axes.plot(*np.stack([start, end]).T, color=COLORS[2], linewidth=1.6, linestyle=(0, (4, 2)))
    axes.plot(*theta.T, "o", color=GREY, markersize=5)
    axes.plot(*square.T, "s", color=COLORS[0], markersize=5)
    axes.plot(*half.T, "D", color=COLORS[2], markersize=5)
    axes.set(aspect="equal", xticks=(0, 1), yticks=(0, 1), xlabel="first label", xlim=(-1.9, 4.2))
    axes.set_ylabel("second label")
    axes.legend(loc="right", labelcolor=GREY)
    return figure


def perturbed() -> plt.Figure:
    """The cheapest path over a piece of a map, and the mean path of two hundred noisy walkers."""
    piece = slice(150, 166), slice(276, 306)
    elevation, _ = perturbed_paths.data.load_elevation()
    costs = perturbed_paths.terrain()[1][piece]
    theta = jnp.asarray(-costs / costs.mean(), jnp.float32)
    options = {"sigma": 0.25, "num_samples": 200, "noise": "normal"}
    soft = diffopt.perturbed_argmax(perturbed_paths.best_path, **options)
    rows, columns = np.indices(costs.shape)
    shares = np.asarray(soft(jax.random.key(0), theta))
    path = np.asarray(perturbed_paths.best_path(theta)) > 0
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    axes.contour(elevation[piece], levels=12, colors=GREY, linewidths=0.8, alpha=0.7)
    crossed = shares > 0.01
    areas = 90 * shares[crossed]
    axes.scatter(columns[crossed], rows[crossed], areas, color=COLORS[2], linewidths=0)
    ring = {"facecolors": "none", "edgecolors": COLORS[0], "linewidths": 2.0}
    axes.scatter(columns[path], rows[path], 130, **ring)
    axes.set(aspect="equal", xlim=(-0.7, 29.7), ylim=(15.7, -0.7))
    axes.axis("off")
    return figure


def soft_dtw() -> plt.Figure:
    """Two series and the pairs that soft-DTW aligns, for a small and for a large gamma."""
    time = np.linspace(0, 1, 30)
    above = np.exp(-(((time - 0.3) / 0.12) ** 2)) + 0.6 * np.exp(-(((time - 0.75) / 0.1) ** 2))
    below = np.exp(-(((time - 0.5) / 0.16) ** 2)) + 0.6 * np.exp(-(((time - 0.88) / 0.07) ** 2))
    cost = (above[:, None] - below) ** 2
    figure, panels = plt.subplots(1, 2, figsize=(6.4, 3.4), layout="constrained", sharey=True)
    for axes, gamma, color in zip(panels, (0.001, 0.5), COLORS[::2], strict=True):
        weights = np.asarray(expected_alignment(cost, gamma=gamma))
        pairs = np.argwhere(weights > 0.03)
        lines = [[(i, 1.6 + above[i]), (j, below[j])] for i, j in pairs]
        shade = [(*to_rgb(color), min(1.0, weights[i, j])) for i, j in pairs]
        axes.add_collection(LineCollection(lines, colors=shade, linewidths=1.2))
        axes.plot(1.6 + above, color=GREY, linewidth=2.4)
        axes.plot(below, color=GREY, linewidth=2.4)
        axes.set(xlabel=rf"time, $\gamma$ = {gamma:g}", xticks=(), yticks=())
    return figure


def lasso() -> plt.Figure:
    """The path of a Lasso of twelve features, and its knots."""
    X, y, _ = make_correlated(40, 12, rho=0.5, num_nonzero=4, snr=2.0, signs=True, seed=3)
    top = float(diffopt.lasso_max(X, y))
    lams = np.linspace(1.05 * top, 0.002 * top, 800)
    coef = np.asarray(diffopt.lasso_path(X, y, lams).solutions.coef)
    sizes = np.sum((coef != 0) * 2 ** np.arange(coef.shape[1]), axis=1)
    knots = lams[1:][np.diff(sizes) != 0] / top
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for knot in knots:
        axes.axvline(knot, color=GREY, linewidth=0.8, linestyle=":")
    order = np.argsort([-np.argmax(column != 0) for column in coef.T])
    for k, j in enumerate(order[::-1]):
        axes.plot(lams / top, coef[:, j], color=EPSILON(k / (len(order) - 1)), linewidth=2.2)
    axes.set(xlabel=r"$\lambda / \lambda_{\max}$", ylabel="coefficients", xlim=(1.05, 0))
    return figure


def nonsmooth_learning() -> plt.Figure:
    """The dual variables of seven items of a support vector machine, as C grows."""
    X, y = np.random.default_rng(4).normal(size=(7, 2)), np.array([1, 1, 1, 1, -1, -1, -1])
    X += 0.5 * y[:, None]
    C = np.geomspace(0.03, 30, 401)
    v = np.stack([np.asarray(diffopt.svm(X, y, c, tol=1e-6).dual) for c in C])
    free = (v > 1e-3 * C[:, None]) & (v < 0.999 * C[:, None])
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    axes.loglog(C, C, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), label="bound C")
    axes.loglog(C, np.where(v > 0, v, np.nan), color=COLORS[0], linewidth=1.4)
    axes.loglog(C, np.where(free, v, np.nan), color=COLORS[2], linewidth=2.8)
    axes.plot([], color=COLORS[0], linewidth=1.4, label="at the bound")
    axes.plot([], color=COLORS[2], linewidth=2.8, label="free")
    axes.set(xlabel="C", ylabel="dual variable", ylim=(0.02, 40))
    axes.legend(loc="upper left", labelcolor=GREY)
    return figure


def permutahedron() -> plt.Figure:
    """Soft ranks of four items: one path for each order, from a corner to the centre."""
    corners = np.array(list(permutations(range(1, 5))), dtype=float)
    flat, _ = _view(corners)
    seen = [_faces_in_sight(corner) for corner in corners]
    figure, axes = plt.subplots(figsize=(6.4, 6.0), layout="constrained")
    for a, b in combinations(range(len(corners)), 2):
        if np.isclose(np.linalg.norm(corners[a] - corners[b]), np.sqrt(2)):
            front = bool(seen[a] & seen[b])
            width, alpha = (1.6, 1.0) if front else (0.9, 0.4)
            axes.plot(*flat[[a, b]].T, color=GREY, linewidth=width, alpha=alpha, zorder=1 + front)
    slopes = np.linspace(1.0, 0.0, 25) / float(diffopt.hard_rank_epsilon(VALUES))
    outline = ConvexHull(flat).vertices
    axes.fill(*flat[outline].T, color=GREY, alpha=0.07, linewidth=0, zorder=0)
    for i, order in enumerate(corners):
        behind = not seen[i]
        values = VALUES[order.astype(int) - 1]
        path, _ = _view(np.asarray(diffopt.soft_rank(slopes[:, None] * values)))
        pieces = LineCollection(np.stack([path[:-1], path[1:]], 1), cmap=EPSILON)
        pieces.set(array=(1 - slopes[:-1] / slopes[0]) ** 2, capstyle="butt" if behind else "round")
        pieces.set(linewidth=1.4 if behind else 2.8, alpha=0.5 if behind else 1.0)
        axes.add_collection(pieces).set_zorder(3 - behind)
        if not behind:
            axes.plot(*flat[i], "o", color=EPSILON(0.0), markersize=6, zorder=4)
        if i in outline:
            label = "".join(f"{rank:.0f}" for rank in order)
            axes.annotate(label, flat[i], 17 * flat[i] / np.hypot(*flat[i]), **LABEL)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.margins(0.09)
    return figure


def _faces_in_sight(corner: np.ndarray) -> set[tuple[int, ...]]:
    """The faces (items that share the top ranks) that meet in a corner and look at the eye."""
    faces = [tuple(np.flatnonzero(corner > level)) for level in (1, 2, 3)]
    return {face for face in faces if _view(2.5 + np.isin(range(4), face))[1] > 0}


def _view(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Plane coordinates, and nearness to the eye, of points whose entries sum to ten."""
    axes = np.array([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
    x, y, z = axes @ (points - 2.5).T  # the three axes through squares
    turn, tilt = np.radians(20.0), np.radians(24.0)
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    y, z = y * np.cos(tilt) - z * np.sin(tilt), y * np.sin(tilt) + z * np.cos(tilt)
    return np.column_stack([x, z]), -y


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with plt.rc_context(STYLE):
        drawings = (sorting, fenchel_young, structured, perturbed, soft_dtw, lasso)
        for draw in (*drawings, nonsmooth_learning, permutahedron):
            path = IMAGES / f"{draw.__name__}.svg"
            draw().savefig(path, metadata={"Date": None, "Creator": None})
            print(path)


if __name__ == "__main__":
    main()
