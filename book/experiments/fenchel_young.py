"""Experiments of the chapter `fenchel_young`: label proportions, sparse recovery, two solvers.

They follow section 9 and the algorithms of section 8 of Blondel, Martins and Niculae, "Learning
with Fenchel-Young Losses" (JMLR 2020, arXiv 1901.02324). From the root of the repository::

    python -m book.experiments.fenchel_young --profile quick
    python -m book.experiments.fenchel_young --profile paper --only proportions

The paper profile writes ``book/results/fenchel_young.json`` and goes on where it was stopped. The
chapter imports the functions of this file. Results of the units:

- ``proportions``, ``"SET/ALPHA"``: over outer folds ``js`` (Jensen-Shannon divergence in nats),
  ``mse`` (squared distance), ``zeros`` (share of predictions that are zero), the penalty ``lam``
  and its ``validation`` score;
- ``recovery``, ``"KIND/LENGTH/LOSS"``: the same over data sets, and ``support`` (share of labels
  that are rightly zero or not);
- ``solvers``, ``"SET/LOSS/LAM/SOLVER"``: ``seconds`` of CPU time, ``value`` and ``gap`` after each
  iteration of L-BFGS or pass of the dual solver.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from book import data
from book.experiments.fenchel_young_claims import claims
from book.experiments.linear import cross_validate, evaluation, fit, standardized
from book.experiments.runner import Experiment, main
from diffopt.classifier import FenchelYoungClassifier, solve_dual, solve_lbfgs
from diffopt.fenchel_young import fenchel_young_loss
from diffopt.regularizers import Gini, Norm, Shannon, Tsallis

LOSSES = {
    "shannon": Shannon(),
    "tsallis15": Tsallis(1.5),
    "gini": Gini(),
    "norm2": Norm(2.0),
}


@functools.cache
def loss_of(regularizer):
    """Build the loss of scores and proportions."""
    return lambda theta, y: fenchel_young_loss(theta, y, regularizer)


@functools.cache
def measures_of(regularizer):
    """Build the measures of predicted proportions."""

    def measures(theta, y):
        p = regularizer.argmax(theta)
        return {
            "js": jensen_shannon(p, y),
            "mse": jnp.sum((p - y) ** 2, axis=-1),
            "zeros": jnp.mean(jnp.equal(p, 0), axis=-1),
            "support": jnp.mean(jnp.equal(p > 0, y > 0), axis=-1),
        }

    return measures


def jensen_shannon(p, q):
    """Compute the Jensen-Shannon divergence, in nats, on the last axis."""
    entropies = jax.scipy.special.xlogy(p, p) + jax.scipy.special.xlogy(q, q)
    middle = 0.5 * (p + q)
    divergence = 0.5 * entropies - jax.scipy.special.xlogy(middle, middle)
    return jnp.maximum(jnp.sum(divergence, axis=-1), 0)


# Label proportions, section 9.1


def load_proportions(name, num_items=2000, seed=0):
    """Load features and label proportions.

    Parameters
    ----------
    name : {"yeast", "digits", "fashion"}
        ``"yeast"``: each label of an item has the same share. The others are made of images: an
        item is a weighted mean of one to three images, of which the weights are the proportions
        of its classes, and features are pixels (for ``"fashion"`` means over 4 × 4 of them).
    num_items, seed : int
        The number of mixtures of images, and the seed that draws them.

    Returns
    -------
    features, proportions : numpy.ndarray
        Shapes ``(num_items, num_features)`` and ``(num_items, num_labels)``.
    """
    if name == "yeast":
        features, labels = data.load_multilabel("yeast")
        return features.astype(float), labels / labels.sum(axis=1, keepdims=True)
    if name == "digits":
        from sklearn.datasets import load_digits

        images, classes = load_digits(return_X_y=True)
    else:
        images, classes = data.load_fashion_mnist("train")
        images = images.reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(len(images), -1)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(images), size=(num_items, 3))
    weights = rng.dirichlet(np.ones(3), num_items)
    weights *= np.arange(3) < rng.integers(1, 4, size=(num_items, 1))
    weights /= weights.sum(axis=1, keepdims=True)
    features = np.einsum("ij,ijp->ip", weights, images[chosen] / images.max())
    proportions = np.einsum("ij,ijk->ik", weights, np.eye(10)[classes[chosen]])
    return features, proportions


def proportions_settings(profile):
    """Set up label proportions: three sets, five orders of the entropy, ten folds."""
    paper = profile == "paper"
    return {
        "datasets": ["yeast", "digits", "fashion"] if paper else ["digits"],
        "alphas": [1.0, 1.25, 1.5, 1.75, 2.0] if paper else [1.0, 1.5, 2.0],
        "lams": [10.0**power for power in (range(0, -7, -1) if paper else range(-2, -5, -2))],
        "num_outer": 10 if paper else 3,
        "num_inner": 5,
        "num_items": 2000 if paper else 500,
        "max_iter": 100 if paper else 50,
        "seed": 0,
    }


def run_proportions(unit, settings):
    """Run one order of the entropy on one set (``"yeast/1.5"``)."""
    name, alpha = unit.split("/")
    regularizer = Tsallis(float(alpha))
    features, targets = load_proportions(name, settings["num_items"], settings["seed"])
    features, targets = features[: settings["num_items"]], targets[: settings["num_items"]]

    def fitted(features, targets, lam, start):
        return fit(loss_of(regularizer), features, targets, lam, start, settings["max_iter"])

    keys = ("lams", "num_outer", "num_inner", "seed")
    return cross_validate(
        fitted,
        measures_of(regularizer),
        "js",
        features,
        targets,
        targets,
        **{key: settings[key] for key in keys},
    )


# Recovery of sparse proportions from documents


def documents(kind, length, num_docs, num_words, num_labels, seed):
    """Draw documents whose words come from the topics of their labels.

    Parameters
    ----------
    kind : {"uniform", "random"}
        Whether the labels of a document have equal shares, or shares drawn from the simplex.
    length, num_docs, num_words, num_labels, seed : int
        Words of a document, documents, size of the vocabulary, labels, and the seed.

    Returns
    -------
    frequencies, proportions : numpy.ndarray
        Shapes ``(num_docs, num_words)`` and ``(num_docs, num_labels)``.
    """
    rng = np.random.default_rng([seed, length, kind == "random"])
    topics = rng.random((num_labels, num_words))
    topics /= topics.sum(axis=1, keepdims=True)
    number = np.clip(rng.poisson(2, num_docs), 1, num_labels)
    own = rng.random((num_docs, num_labels)).argsort(axis=1).argsort(axis=1) < number[:, None]
    shares = own * (1.0 if kind == "uniform" else rng.exponential(size=own.shape))
    shares = shares / shares.sum(axis=1, keepdims=True)
    return rng.multinomial(length, shares @ topics) / length, shares


def recovery_settings(profile):
    """Set up sparse recovery: documents of several lengths, equal and random shares."""
    paper = profile == "paper"
    return {
        "kinds": ["uniform", "random"],
        "lengths": [200, 500, 1000, 2000] if paper else [500],
        "losses": list(LOSSES) if paper else ["shannon", "gini"],
        "lams": [10.0**power for power in (range(1, -5, -1) if paper else range(-2, -4, -1))],
        "num_train": 1000 if paper else 300,
        "num_test": 1000 if paper else 300,
        "num_words": 500 if paper else 200,
        "num_labels": 10,
        "num_sets": 5 if paper else 2,
        "max_iter": 100 if paper else 50,
        "seed": 0,
    }


def run_recovery(unit, settings):
    """Run one loss on documents of one kind and length (``"uniform/500/gini"``)."""
    kind, length, loss = unit.split("/")
    regularizer = LOSSES[loss]
    train, test = settings["num_train"], settings["num_test"]
    sizes = train + 2 * test, settings["num_words"], settings["num_labels"]
    seeds = [settings["seed"] + i for i in range(settings["num_sets"])]
    sets = [documents(kind, int(length), *sizes, seed) for seed in seeds]
    rows = np.arange(train)[None]
    features = np.stack([standardized(x, rows)[0] for x, _ in sets])
    targets = np.stack([y for _, y in sets])
    parts = {"validation": slice(train, train + test), "test": slice(train + test, None)}

    def measure(tables):
        found = evaluation(measures_of(regularizer))(tables, features, targets)
        return {
            part: {key: np.mean(value[:, rows], axis=1) for key, value in found.items()}
            for part, rows in parts.items()
        }

    tables, found = None, {}
    for lam in sorted(settings["lams"], reverse=True):
        arguments = features[:, :train], targets[:, :train], lam, tables, settings["max_iter"]
        tables = fit(loss_of(regularizer), *arguments)
        found[lam] = measure(tables)
    best = [
        min(found, key=lambda lam, i=i: found[lam]["validation"]["js"][i]) for i in range(len(sets))
    ]
    tested = {
        key: [float(found[lam]["test"][key][i]) for i, lam in enumerate(best)]
        for key in ("js", "mse", "zeros", "support")
    }
    return {"lam": best, **tested}


# The two solvers, section 8


def solvers_settings(profile):
    """Set up the solvers: three losses and three penalties."""
    paper = profile == "paper"
    return {
        "datasets": ["yeast", "digits"] if paper else ["digits"],
        "losses": ["shannon", "tsallis15", "gini"] if paper else ["shannon", "gini"],
        "lams": [1e-1, 1e-2, 1e-3] if paper else [1e-2],
        "num_items": 2000 if paper else 300,
        "tol": 1e-8,
        "max_iter": 1000 if paper else 100,
        "seed": 0,
    }


def run_solvers(unit, settings):
    """Trace one solver (``"yeast/gini/0.01/dual"``); times include those of the gap."""
    name, loss, lam, solver = unit.split("/")
    features, targets = load_proportions(name, settings["num_items"], settings["seed"])
    rows = np.arange(len(features))[None, : settings["num_items"]]
    features, targets = standardized(features, rows)[0][rows[0]], targets[rows[0]]
    model = FenchelYoungClassifier(LOSSES[loss], lam=float(lam), solver=solver)
    problem, _ = model._problem(features, targets, None)
    solve = {"lbfgs": solve_lbfgs, "dual": solve_dual}[solver]
    trace = {"seconds": [], "value": [], "gap": []}

    def note(solution):
        trace["seconds"].append(time.process_time() - start)
        trace["value"].append(float(solution.value))
        trace["gap"].append(float(solution.gap))

    solve(problem, tol=1.0, max_iter=1)  # compiles
    start = time.process_time()
    solve(problem, tol=settings["tol"], max_iter=settings["max_iter"], callback=note)
    return trace


EXPERIMENTS = {
    "proportions": Experiment(
        proportions_settings,
        lambda settings: [
            f"{d}/{alpha}" for d in settings["datasets"] for alpha in settings["alphas"]
        ],
        run_proportions,
    ),
    "recovery": Experiment(
        recovery_settings,
        lambda settings: [
            f"{kind}/{length}/{loss}"
            for kind in settings["kinds"]
            for length in settings["lengths"]
            for loss in settings["losses"]
        ],
        run_recovery,
    ),
    "solvers": Experiment(
        solvers_settings,
        lambda settings: [
            f"{name}/{loss}/{lam:g}/{solver}"
            for name in settings["datasets"]
            for loss in settings["losses"]
            for lam in settings["lams"]
            for solver in ("lbfgs", "dual")
        ],
        run_solvers,
    ),
}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main("fenchel_young", EXPERIMENTS, claims)
