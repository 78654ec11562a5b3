"""Experiments of the chapter `perturbed`: classification, label ranking, paths, variance.

They follow section 5 of Berthet, Blondel, Teboul, Cuturi, Vert and Bach, "Learning with
Differentiable Perturbed Optimizers" (NeurIPS 2020, arXiv 2002.08676). From the root of the
repository::

    python -m book.experiments.perturbed --profile quick
    python -m book.experiments.perturbed --profile paper --only paths

The paper profile writes ``book/results/perturbed.json`` and goes on where it was stopped. The
chapter imports the functions of this file.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.stats import norm

from book.experiments import perturbed_paths, perturbed_variance
from book.experiments.adam import train
from book.experiments.linear import cross_validate, fit
from book.experiments.perturbed_claims import claims
from book.experiments.runner import Experiment, main
from book.experiments.sorting import (
    BY_SIZE,
    fashion_mnist,
    fit_ridge,
    mlp,
    mlp_init,
    top_k_accuracy,
)
from book.experiments.structured import compare_ranks, load_ranks
from diffopt import oracles, perturbed_fenchel_young_loss
from diffopt.sorting import soft_rank

# Classification, section 5.1


def class_loss(method, sigma, num_samples):
    """Build ``loss(key, theta, labels)``, a number for each item."""
    if method == "cross_entropy":
        return lambda key, theta, labels: optax.softmax_cross_entropy_with_integer_labels(
            theta, labels
        )
    options = {"sigma": sigma, "num_samples": num_samples, "noise": "normal", "batch_ndim": 1}
    fenchel_young = perturbed_fenchel_young_loss(oracles.argmax, **options)
    return lambda key, theta, labels: fenchel_young(
        key, theta, jax.nn.one_hot(labels, theta.shape[-1], dtype=theta.dtype)
    )


@functools.partial(jax.jit, static_argnames=("method", "num_samples", "sizes", "num_epochs"))
def fit_classes(
    key, learning_rate, sigma, images, labels, *, method, num_samples, sizes, num_epochs
):
    """Train a network of scores by one loss."""
    loss = class_loss(method, sigma, num_samples)

    def init(key):
        return jax.tree.map(lambda p: p.astype(jnp.float32), mlp_init(key, sizes))

    def objective(parameters, rows, key):
        return loss(key, mlp(parameters, images[rows]), labels[rows]).mean()

    shape = {"num_epochs": num_epochs, "batch_size": 100}
    return train(key, init, objective, len(images), learning_rate, **shape)


def classification(method, sigma, num_samples, rates, num_seeds, seed, num_train, **network):
    """Tune the step size on a held-out fifth of the training images, then test over seeds.

    Returns
    -------
    dict
        The chosen ``learning_rate``; ``validation`` accuracies, one for each step size; and the
        accuracy on the ``test`` images and on the ``train`` ones, for each seed.
    """
    images, labels, test_images, test_labels = fashion_mnist(num_train)
    network |= {"sizes": tuple(network["sizes"]), "method": method, "num_samples": num_samples}
    key, sigma = jax.random.key(seed), jnp.float32(sigma)
    held = len(images) // 5

    def accuracy(key, rate, rows, *tests):
        fitted = fit_classes(key, jnp.float32(rate), sigma, images[rows], labels[rows], **network)
        return [top_k_accuracy(mlp(fitted, x), y, 1) for x, y in tests]

    validation = [
        accuracy(key, rate, slice(held, None), (images[:held], labels[:held]))[0] for rate in rates
    ]
    best = rates[int(np.argmax(validation))]
    tests = (images, labels), (test_images, test_labels)
    keys = jax.random.split(jax.random.fold_in(key, 1), num_seeds)
    found = [accuracy(key, best, slice(None), *tests) for key in keys]
    on_train, on_test = np.transpose(found).tolist()
    return {"learning_rate": best, "validation": validation, "train": on_train, "test": on_test}


def classification_settings(profile):
    """Set up classification: scales of the noise, one draw and a hundred, against cross-entropy."""
    paper = profile == "paper"
    sigmas = [0.01, 0.1, 1.0, 10.0, 100.0] if paper else [1.0]
    rates = [1e-3, 3e-3, 1e-2] if paper else [3e-3]
    many = [float(rate) for rate in np.logspace(-3.5, -1.75, 15)]
    return {
        "units": ["cross_entropy/0/0"]
        + [f"fenchel_young/{s}/{m}" for s in sigmas for m in ((1, 100) if paper else (1,))],
        # cross-entropy has no scale to be tuned, and gets as many candidates in step sizes alone
        "rates": {"fenchel_young": rates, "cross_entropy": many if paper else rates},
        "num_seeds": 5 if paper else 1,
        "sizes": [784, 128, 10],
        "num_epochs": 20 if paper else 5,
        "num_train": 5000 if paper else 2000,
        "seed": 0,
    }


def run_classification(unit, settings):
    """Run one loss (``"fenchel_young/1.0/100"``: the scale of the noise, the draws)."""
    method, sigma, num_samples = unit.split("/")
    keys = ("num_seeds", "seed", "num_train", "sizes", "num_epochs")
    arguments = {key: settings[key] for key in keys}
    rates = settings["rates"][method]
    return classification(method, float(sigma), int(num_samples), rates, **arguments)


# Label ranking, section 5.2


def exact_ranks(theta, sigma=1.0):
    """Compute ranks perturbed by normal noise, in closed form."""
    delta = (theta[..., :, None] - theta[..., None, :]) / (2**0.5 * sigma)
    return 0.5 + norm.cdf(delta).sum(-1)


def exact_rank_loss(theta, ranks, sigma=1.0):
    """Compute the Fenchel-Young loss of ranks perturbed by normal noise, in closed form."""
    scale = 2**0.5 * sigma
    delta = (theta[..., :, None] - theta[..., None, :]) / scale
    larger = theta[..., None, :] + scale * (delta * norm.cdf(delta) + norm.pdf(delta))
    n = theta.shape[-1]
    pairs = jnp.where(jnp.eye(n, dtype=bool), 0.0, larger).sum((-2, -1)) / 2
    return theta.sum(-1) + pairs - jnp.sum(theta * ranks, axis=-1)


@functools.cache
def rank_loss(method, num_samples):
    """Build a loss of scores and ranks, a number for each item.

    The scale of noise and of soft ranks is 1, which loses nothing: linear scores can be scaled,
    so one grid over the penalty searches both. Noise is drawn once, from a fixed key, so that the
    objective is a deterministic convex function.
    """
    if method == "exact":
        return exact_rank_loss
    if method == "squared":
        return lambda theta, ranks: 0.5 * jnp.sum((exact_ranks(theta) - ranks) ** 2, axis=-1)
    if method == "soft_rank":
        return lambda theta, ranks: 0.5 * jnp.sum((soft_rank(theta) - ranks) ** 2, axis=-1)
    options = {"num_samples": num_samples, "noise": "normal", "batch_ndim": 2}
    fenchel_young = perturbed_fenchel_young_loss(oracles.ranking, **options)
    return lambda theta, ranks: fenchel_young(jax.random.key(0), theta, ranks)


def rank_measures(theta, ranks):
    """Compare the order of scores with the true one."""
    return compare_ranks(theta.argsort(-1).argsort(-1) + 1.0, ranks)


def label_ranking_settings(profile):
    """Set up label ranking: all 21 sets, or a small one with fewer folds and penalties."""
    paper = profile == "paper"
    return {
        "datasets": BY_SIZE if paper else ["glass"],
        "methods": ["none", "soft_rank", "squared", *(["exact"] if paper else []), "sampled"],
        "lams": [10.0**power for power in (range(0, -6, -1) if paper else range(-1, -5, -2))],
        "num_outer": 10 if paper else 3,
        "num_inner": 5,
        "max_items": 1000 if paper else 300,
        "max_iter": 60 if paper else 20,
        "num_samples": 10,
        "seed": 0,
    }


def run_label_ranking(unit, settings):
    """Run one method on one set (``"iris/sampled"``); the measures are those of `structured`."""
    name, method = unit.split("/")
    features, ranks = load_ranks(name)
    rows = np.random.default_rng(settings["seed"]).permutation(len(features))
    rows = rows[: settings["max_items"]]
    features, ranks = features[rows].astype(float), ranks[rows]

    def fitted(features, ranks, lam, start):
        if method == "none":
            return fit_ridge(features, ranks, np.reshape(lam, (-1, 1, 1)))
        loss = rank_loss(method, settings["num_samples"])
        return fit(loss, features, ranks, lam, start, settings["max_iter"])

    folds = {key: settings[key] for key in ("num_outer", "num_inner", "seed")}
    data_set = features, ranks, ranks
    return cross_validate(fitted, rank_measures, "spearman", *data_set, settings["lams"], **folds)


# Shortest paths, section 5.3


def path_settings(profile):
    """Set up paths: scales and draws for the perturbed losses, strengths for the others.

    Where the scale is ``fixed``, costs are divided by their mean over a tile before the loss sees
    them; where it is ``free``, the network can grow its costs and so escape the noise.
    """
    paper = profile == "paper"
    sigmas = [0.01, 0.03, 0.1, 0.3, 1.0]
    draws = {"fenchel_young": [1, 3, 10], "squared": [3, 10]}
    units = [f"{m}/fixed/{s}/{n}" for m, numbers in draws.items() for s in sigmas for n in numbers]
    units += [f"fenchel_young/fixed/{s}/30" for s in (0.03, 0.1)]
    units += [f"fenchel_young/free/{s}/3" for s in sigmas]
    units += [f"squared/free/{s}/10" for s in sigmas[1:]]
    units += [f"blackbox/fixed/{s}/1" for s in (0.1, 0.3, 1.0, 3.0, 10.0)]
    units += ["costs/free/0.0/0"]
    return {
        "units": units if paper else ["fenchel_young/fixed/0.03/3", "squared/fixed/0.1/3"],
        "learning_rates": [1e-2, 3e-2] if paper else [3e-2],
        "num_seeds": 3 if paper else 1,
        "num_tiles": None if paper else 500,
        "num_epochs": 10,
        "hidden": 32,
        "seed": 0,
    }


def run_paths(unit, settings):
    """Run one loss (``"fenchel_young/fixed/0.1/10"``: scale, noise or strength, draws)."""
    method, scale, sigma, num_samples = unit.split("/")
    return perturbed_paths.run(method, scale, float(sigma), int(num_samples), settings)


# Bias and variance


def variance_settings(profile):
    """Set up the measurement of bias and variance over scales of the noise."""
    paper = profile == "paper"
    sigmas = [0.03, 0.1, 0.3, 1.0, 3.0] if paper else [0.1, 1.0]
    names = ("class", "order", "path") if paper else ("class", "order")
    return {
        "units": [f"{name}/{sigma}" for name in names for sigma in sigmas],
        "num_samples": 128,
        "num_repeats": 400 if paper else 100,
        "seed": 0,
    }


def run_variance(unit, settings):
    """Measure one problem at one scale of the noise (``"path/0.1"``)."""
    name, sigma = unit.split("/")
    arguments = {key: settings[key] for key in ("num_samples", "num_repeats", "seed")}
    return perturbed_variance.measure(name, float(sigma), **arguments)


EXPERIMENTS = {
    "classification": Experiment(
        classification_settings, lambda settings: settings["units"], run_classification
    ),
    "label_ranking": Experiment(
        label_ranking_settings,
        lambda settings: [f"{d}/{m}" for d in settings["datasets"] for m in settings["methods"]],
        run_label_ranking,
    ),
    "paths": Experiment(path_settings, lambda settings: settings["units"], run_paths),
    "variance": Experiment(variance_settings, lambda settings: settings["units"], run_variance),
}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main("perturbed", EXPERIMENTS, claims)
