"""Shortest paths over real terrain, learned from paths alone (chapter `perturbed`).

A map of elevations is cut into tiles of 12 x 12 cells. Crossing a cell has a cost that grows with
the slope of the ground; the best path from the north-western to the south-eastern corner is known
for the tiles of training, the costs are not. A network looks at the heights around a cell and says
what it costs, and a solver that knows nothing of learning finds the path.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from book import data
from book.experiments.adam import train
from book.experiments.sorting import mlp, mlp_init
from diffopt import oracles, perturbed_argmax, perturbed_fenchel_young_loss

SIZE = 12  # cells on each side of a tile, as in the paper
STEEP = 0.1  # slope at which a cell costs twice as much as a flat one
HEIGHT = 30.0  # metres: unit of the heights that the network sees
BORDERS = {"train": (1, 200, 6), "validation": (200, 270, 12), "test": (270, 402, 12)}


def terrain():
    """Compute the features and the true cost of every cell of the map.

    Returns
    -------
    features : numpy.ndarray
        Heights of the eight neighbours above the cell, in units of `HEIGHT`.
    costs : numpy.ndarray
        ``1 + (slope / STEEP)^2``.
    """
    elevation, (south, east) = data.load_elevation()
    slope = np.hypot(*np.gradient(elevation, south, east))
    shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    around = [np.roll(elevation, shift, (0, 1)) - elevation for shift in shifts]
    return np.stack(around, -1) / HEIGHT, 1 + (slope / STEEP) ** 2


@functools.cache
def tiles(part, num_tiles=None):
    """Cut one part of the map into tiles, and solve them.

    The parts are strips of the map that do not overlap. Tiles of training overlap each other by
    one half, the others do not.

    Parameters
    ----------
    part : {"train", "validation", "test"}
        Which strip.
    num_tiles : int, optional
        How many tiles, chosen at random; by default all.

    Returns
    -------
    features : jax.Array
        float32, shape ``(num_tiles, SIZE, SIZE, 8)``.
    costs, paths : jax.Array
        float32, shape ``(num_tiles, SIZE, SIZE)``; a path is 1 where it passes.
    """
    features, costs = terrain()
    left, right, stride = BORDERS[part]
    rows = range(1, len(costs) - SIZE, stride)
    columns = range(left, right - SIZE + 1, stride)
    corners = np.array([(i, j) for i in rows for j in columns])
    corners = np.random.default_rng(0).permutation(corners)[:num_tiles]
    cut = [
        np.stack([values[i : i + SIZE, j : j + SIZE] for i, j in corners])
        for values in (features, costs)
    ]
    features, costs = (jnp.asarray(values, jnp.float32) for values in cut)
    return features, costs, best_path(-costs)


# A path of largest score; scores are minus costs


def best_path(theta):
    """Solve for the path of least cost ``-theta`` between opposite corners."""
    return oracles.grid_shortest_path(-theta)


def predicted_costs(parameters, features):
    """Compute positive costs of cells from their features."""
    return jax.nn.softplus(mlp(parameters, features)[..., 0])


def loss_of(method, sigma, num_samples):
    """Build ``loss(key, costs, true_costs, paths)``, a number for each tile.

    Parameters
    ----------
    method : {"fenchel_young", "squared", "blackbox", "costs"}
        The perturbed Fenchel-Young loss; half the squared distance of the perturbed path; the
        interpolation of Vlastelica and others (2020), of strength `sigma`; half the squared error
        of the costs themselves, which no other method sees.
    sigma : float
        Scale of the noise.
    num_samples : int
        Draws for each tile and step.
    """
    options = {"sigma": sigma, "num_samples": num_samples, "noise": "normal", "batch_ndim": 1}
    if method == "fenchel_young":
        fenchel_young = perturbed_fenchel_young_loss(best_path, **options)
        return lambda key, costs, truth, paths: fenchel_young(key, -costs, paths)
    if method == "squared":
        perturbed = perturbed_argmax(best_path, **options)
        return lambda key, costs, truth, paths: half_square(perturbed(key, -costs) - paths)
    if method == "blackbox":
        return lambda key, costs, truth, paths: blackbox_loss(costs, paths, sigma)
    return lambda key, costs, truth, paths: half_square(costs - truth)


def half_square(difference):
    """Compute half the sum of squares over the cells of a tile."""
    return 0.5 * jnp.sum(difference**2, axis=(-2, -1))


def blackbox_loss(costs, paths, strength):
    """Compute a linear function of the costs that has the gradient of the interpolated loss."""
    theta = jax.lax.stop_gradient(-costs)
    found = best_path(theta)
    moved = best_path(theta - strength * (found - paths))
    return jnp.sum((found - moved) / strength * -costs, axis=(-2, -1))


# Training and testing


@functools.partial(
    jax.jit, static_argnames=("method", "scale", "num_samples", "hidden", "num_epochs")
)
def fit(key, learning_rate, sigma, tiles, *, method, scale, num_samples, hidden, num_epochs):
    """Train a network of costs by one loss, on tiles ``(features, costs, paths)``.

    With the scale ``"fixed"``, the loss sees costs of mean 1 over each tile, so that the network
    cannot grow or shrink them all; with ``"free"`` it sees them as they are.
    """
    features, truth, paths = tiles
    loss = loss_of(method, sigma, num_samples)

    def init(key):
        drawn = mlp_init(key, (features.shape[-1], hidden, hidden, 1))
        return jax.tree.map(lambda p: p.astype(jnp.float32), drawn)

    def objective(parameters, rows, key):
        costs = predicted_costs(parameters, features[rows])
        if scale == "fixed":
            costs = costs / costs.mean((-2, -1), keepdims=True)
        return loss(key, costs, truth[rows], paths[rows]).mean()

    shape = {"num_epochs": num_epochs, "batch_size": 32}
    return train(key, init, objective, len(features), learning_rate, **shape)


@jax.jit
def cost_ratios(parameters, tiles):
    """Compute the cost of the predicted path over that of the best one, for each tile.

    It is infinite where the network gives no numbers, as happens when training diverges.
    """
    features, costs, paths = tiles
    predicted = predicted_costs(parameters, features)
    found = best_path(-predicted)
    ratios = jnp.sum(costs * found, axis=(-2, -1)) / jnp.sum(costs * paths, axis=(-2, -1))
    return jnp.where(jnp.isfinite(predicted).all((-2, -1)), ratios, jnp.inf)


def run(method, scale, sigma, num_samples, settings):
    """Tune the step size of one loss on the validation tiles, then test it.

    Returns
    -------
    dict
        The chosen ``learning_rate``; ``validation``, for each step size the mean cost ratio; and
        for each seed the mean ``ratio`` on test tiles, and the share of ``exact`` ones, whose path
        costs no more than the best.
    """
    train_tiles = tiles("train", settings["num_tiles"])
    static = {key: settings[key] for key in ("hidden", "num_epochs")}
    static |= {"method": method, "scale": scale, "num_samples": num_samples}
    keys = jax.random.split(jax.random.key(settings["seed"]), settings["num_seeds"])

    def fitted(rate):
        arguments = jnp.float32(rate), jnp.float32(sigma), train_tiles
        return [fit(key, *arguments, **static) for key in keys]

    def measured(networks, part):
        return np.stack([cost_ratios(network, tiles(part)) for network in networks])

    networks = {rate: fitted(rate) for rate in settings["learning_rates"]}
    validation = {rate: measured(found, "validation").mean() for rate, found in networks.items()}
    best = min(validation, key=validation.get)
    ratios = measured(networks[best], "test").astype(float)
    return {
        "learning_rate": best,
        "validation": [float(value) for value in validation.values()],
        "ratio": ratios.mean(1).tolist(),
        "exact": np.mean(ratios < 1 + 1e-5, axis=1).tolist(),
    }
