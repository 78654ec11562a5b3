"""Experiments of the chapter `sorting`: label ranking, robust regression, top-k, run time.

They follow section 6 of Blondel, Teboul, Berthet and Djolonga, "Fast Differentiable Sorting and
Ranking" (ICML 2020, arXiv 2002.08871). From the root of the repository::

    python -m book.experiments.sorting --profile quick
    python -m book.experiments.sorting --profile paper --only label_ranking

The paper profile writes ``book/results/sorting.json`` and goes on where it was stopped. The
chapter imports the functions of this file.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.model_selection import KFold

from book import data
from book.experiments import growth
from book.experiments.lbfgs import minimize_batch
from book.experiments.runner import Experiment, main
from book.experiments.sorting_claims import claims
from book.experiments.sorting_ranks import OTHERS, OURS, all_pairs_rank, sinkhorn_rank
from diffopt.sorting import soft_least_trimmed_squares, soft_rank, soft_top_k_loss


def split(num_items, num_folds, seed):
    """Give the training and test rows of each fold of a shuffled cross-validation."""
    folds = KFold(num_folds, shuffle=True, random_state=seed)
    return list(folds.split(np.empty(num_items)))


def nested_split(num_items, num_outer, num_inner, seed, max_rows=None):
    """Give the rows of a nested cross-validation.

    Returns
    -------
    outer : list of (train, test)
        Rows of each outer fold.
    inner : list of list of (train, validation)
        For each outer fold the rows of its inner folds, all of one length (a row or two may be
        left out), at most `max_rows` in training.
    """
    outer = split(num_items, num_outer, seed)
    inner = []
    for train, _ in outer:
        rows = np.random.default_rng(seed).permutation(train)
        rows = rows[: None if max_rows is None else max_rows * num_inner // (num_inner - 1)]
        inner.append([(rows[fit], rows[held]) for fit, held in split(len(rows), num_inner, seed)])
    size = min(len(fit) for folds in inner for fit, _ in folds)
    return outer, [[(fit[:size], held) for fit, held in folds] for folds in inner]


# Label ranking, section 6.3


def spearman(theta, ranks):
    """Compute the mean of Spearman's coefficient between rows of scores and true ranks."""
    num_labels = ranks.shape[1]
    difference = theta.argsort(axis=1).argsort(axis=1) + 1.0 - ranks
    return float(np.mean(1 - 6 * (difference**2).sum(1) / (num_labels * (num_labels**2 - 1))))


def linear_scores(table, features):
    """Compute ``W x + b`` where the last row of the table is ``b``; leading axes are batches."""
    return features @ table[..., :-1, :] + table[..., -1:, :]


@functools.cache
def rank_objective(regularization):
    """Build values and gradients of ``mean 1/2 |soft_rank(W x + b) - y|^2 + lam/2 |W|^2``.

    The strength of the soft rank is 1. This loses nothing: a soft rank depends on ``theta /
    epsilon`` only, so that with linear scores ``(epsilon, lam)`` and ``(1, lam epsilon^2)`` give
    the same predictions, and one grid over ``lam`` searches both.
    """

    def values(tables, features, ranks, lam):
        difference = soft_rank(linear_scores(tables, features), regularization=regularization)
        loss = 0.5 * jnp.sum((difference - ranks) ** 2, axis=-1).mean(-1)
        loss = loss + 0.5 * lam * jnp.sum(tables[..., :-1, :] ** 2, axis=(-1, -2))
        return loss.sum(), loss

    @jax.jit
    def values_and_gradients(tables, *arguments):
        (_, value), gradient = jax.value_and_grad(values, has_aux=True)(tables, *arguments)
        return value, gradient

    return values_and_gradients


def fit_soft_rank(features, ranks, lam, regularization, start=None):
    """Fit linear models under a soft rank by L-BFGS, one for each leading entry of a batch.

    Parameters
    ----------
    features, ranks : numpy.ndarray
        Shapes ``(batch, m, p)`` and ``(batch, m, n)``.
    lam : float
        Penalty of the coefficients.
    regularization : {"l2", "kl"}
        Regularisation of the soft rank.
    start : numpy.ndarray, optional
        Where to start, by default at zero.

    Returns
    -------
    numpy.ndarray
        Tables ``(batch, p + 1, n)``: the coefficients, then the intercepts.
    """
    shape = (len(features), features.shape[2] + 1, ranks.shape[2])
    features, ranks = jnp.asarray(features, float), jnp.asarray(ranks, float)
    start = np.zeros(shape) if start is None else start

    def objective(point):
        value, gradient = rank_objective(regularization)(
            point.reshape(shape), features, ranks, float(lam)
        )
        return value, np.asarray(gradient).reshape(point.shape)

    return minimize_batch(objective, start.reshape(shape[0], -1)).reshape(shape)


def fit_ridge(features, targets, lam):
    """Fit ``mean 1/2 |W x + b - y|^2 + lam/2 |W|^2`` in closed form, for a batch as above."""
    features, targets = np.asarray(features, float), np.asarray(targets, float)
    mean, offset = features.mean(-2, keepdims=True), targets.mean(-2, keepdims=True)
    centred = features - mean
    gram = np.swapaxes(centred, -1, -2) @ centred / features.shape[-2]
    moment = np.swapaxes(centred, -1, -2) @ (targets - offset) / features.shape[-2]
    table = np.linalg.solve(gram + lam * np.eye(gram.shape[-1]), moment)
    return np.concatenate([table, offset - mean @ table], axis=-2)


def label_ranking(features, ranks, method, lams, num_outer, num_inner, seed, max_rows=None):
    """Run the nested cross-validation of one method on one set.

    Inner folds of all outer folds are fitted together, from large penalties to small ones, each
    from the one before; the final fit starts at the mean of the inner ones.

    Parameters
    ----------
    features, ranks : numpy.ndarray
        The data set.
    method : {"none", "l2", "kl"}
        Squared loss of the scores themselves, or of their soft ranks.
    lams : sequence of float
        Penalties to choose from by the inner cross-validation.
    num_outer, num_inner, seed : int
        Folds, and the seed that shuffles them.
    max_rows : int, optional
        How many rows an inner fold is fitted to at most; the final fits use all.

    Returns
    -------
    scores : list of float
        Spearman's coefficient on each outer test fold.
    chosen : list of float
        The penalty chosen for it.
    """

    def fit(rows, lam, start=None):
        if method == "none":
            return fit_ridge(features[rows], ranks[rows], lam)
        return fit_soft_rank(features[rows], ranks[rows], lam, method, start)

    def score(table, rows):
        return spearman(linear_scores(table, features[rows]), ranks[rows])

    outer, inner = nested_split(len(features), num_outer, num_inner, seed, max_rows)
    folds = [fold for group in inner for fold in group]
    rows = np.stack([fit_rows for fit_rows, _ in folds])
    tables, table_of, scores_of = None, {}, {}
    for lam in sorted(lams, reverse=True):
        tables = table_of[lam] = fit(rows, lam, tables)
        values = [score(t, held) for t, (_, held) in zip(tables, folds, strict=True)]
        scores_of[lam] = np.reshape(values, (num_outer, num_inner)).mean(1)
    scores, chosen = [], []
    for fold, (train, test) in enumerate(outer):
        lam = max(scores_of, key=lambda lam, fold=fold: scores_of[lam][fold])
        start = table_of[lam].reshape(num_outer, num_inner, *tables.shape[1:])[fold].mean(0)
        table = fit(train[None, : min(len(t) for t, _ in outer)], lam, start[None])[0]
        scores.append(score(table, test))
        chosen.append(float(lam))
    return scores, chosen


# so that a run which is stopped has most of the sets
BY_SIZE = (
    "iris wine wisconsin glass bodyfat housing vowel stock vehicle authorship segment dtt cold "
    "heat diau spo cpu calhousing pendigits elevators fried"
).split()


def label_ranking_settings(profile):
    """Set up label ranking: all 21 sets, or three small ones with fewer folds and penalties."""
    paper = profile == "paper"
    return {
        "datasets": BY_SIZE if paper else ["glass", "iris", "wine"],
        "methods": ["none", "l2", "kl"],
        "lams": [10.0**power for power in (range(0, -7, -1) if paper else range(0, -6, -2))],
        "num_outer": 10 if paper else 5,
        "num_inner": 5 if paper else 3,
        "max_rows": 2000,
        "seed": 0,
    }


def run_label_ranking(unit, settings):
    """Run one method on one set (``"glass/l2"``)."""
    name, method = unit.split("/")
    features, ranks = data.load_label_ranking(name)
    keys = ("lams", "num_outer", "num_inner", "max_rows", "seed")
    arguments = {key: settings[key] for key in keys}
    scores, chosen = label_ranking(features, ranks, method, **arguments)
    return {"spearman": scores, "lam": chosen, "mean": np.mean(scores), "std": np.std(scores)}


# Robust regression, section 6.4


def corrupt(targets, fraction, rng):
    """Add normal noise of five standard deviations to a fraction of the targets."""
    noisy = np.array(targets, float)
    rows = rng.permutation(len(noisy))[: round(fraction * len(noisy))]
    noisy[rows] += rng.normal(0, 5 * np.std(targets), len(rows))
    return noisy


@functools.cache
def residual_objective(loss):
    """Build values and gradients of ``loss(residuals, strength) + lam/2 |w|^2`` for a batch."""

    def values(points, features, targets, strengths, lams):
        residuals = jnp.einsum("...mp,...p->...m", features, points[:, :-1]) - targets
        losses = jax.vmap(loss)(residuals + points[:, -1:], strengths)
        losses = losses + 0.5 * lams * jnp.sum(points[:, :-1] ** 2, axis=-1)
        return losses.sum(), losses

    @jax.jit
    def values_and_gradients(points, *arguments):
        (_, value), gradient = jax.value_and_grad(values, has_aux=True)(points, *arguments)
        return value, gradient

    return values_and_gradients


@functools.cache
def trimmed_loss(num_trimmed):
    """Build the soft least trimmed squares of residuals, with its epsilon as second argument."""
    return lambda residuals, epsilon: soft_least_trimmed_squares(
        residuals, num_trimmed, epsilon=epsilon
    )


def huber_loss(residuals, threshold):
    """Compute the mean of Huber's loss."""
    return optax.losses.huber_loss(residuals, delta=threshold).mean()


def descend(loss, features, targets, strengths, lams):
    """Minimise a loss of residuals for a batch of regressions by L-BFGS from the ridge solution."""
    start = fit_ridge(features, targets[..., None], lams[:, None, None])[..., 0]
    arrays = [jnp.asarray(a, float) for a in (features, targets, strengths, lams)]
    return minimize_batch(lambda point: residual_objective(loss)(point, *arrays), start)


def fit_soft_trimmed(features, targets, trimmed, epsilon, lam=1e-4):
    """Fit soft least trimmed squares for a batch; `trimmed` is one fraction, the rest arrays.

    Returns one vector for each regression: the coefficients, then the intercept.
    """
    loss = trimmed_loss(round(trimmed * targets.shape[1]))
    return descend(loss, features, targets, epsilon, np.full(len(targets), lam))


def fit_huber(features, targets, threshold, lam):
    """Fit Huber's regression for a batch; the targets are in units of their quartile range."""
    return descend(huber_loss, features, targets, threshold, lam)


def fit_trimmed(features, targets, trimmed, lam, num_starts=3, max_iter=30):
    """Fit hard least trimmed squares for a batch by concentration steps.

    A step refits the rows with the smallest residuals until they stay (Rousseeuw and Van
    Driessen, 2006). It starts from ridge regression and from a few random rows; the best optimum
    is kept.
    """
    batch, num_rows, num_features = features.shape
    num_kept = num_rows - round(trimmed * num_rows)
    rng = np.random.default_rng(0)
    penalty = lam[:, None, None]
    best, best_value = None, np.full(batch, np.inf)
    for start in range(num_starts):
        size = num_rows if start == 0 else 2 * (num_features + 1)
        rows = np.tile(rng.permutation(num_rows)[:size], (batch, 1))
        for _ in range(max_iter):
            kept_features = np.take_along_axis(features, rows[..., None], axis=1)
            kept_targets = np.take_along_axis(targets, rows, axis=1)
            point = fit_ridge(kept_features, kept_targets[..., None], penalty)[..., 0]
            residuals = np.einsum("bmp,bp->bm", features, point[:, :-1]) + point[:, -1:] - targets
            kept = np.sort(np.argpartition(residuals**2, num_kept - 1)[:, :num_kept], axis=1)
            if np.array_equal(kept, rows):
                break
            rows = kept
        value = 0.5 * np.take_along_axis(residuals**2, kept, axis=1).mean(1)
        value += 0.5 * lam * np.sum(point[:, :-1] ** 2, axis=1)
        best = point if best is None else np.where((value < best_value)[:, None], point, best)
        best_value = np.minimum(value, best_value)
    return best


def fit_regression(method, features, targets, options):
    """Fit one method to ``(batch, m, p)`` features and ``(batch, m)`` targets for many options.

    Parameters
    ----------
    method : {"ridge", "huber", "trimmed", "soft_trimmed"}
        Which method.
    features, targets : numpy.ndarray
        The data; each regression is standardised by itself.
    options : list of dict
        Keyword arguments of the method; one model is fitted for each of them and each regression.

    Returns
    -------
    numpy.ndarray
        Shape ``(len(options), batch, p + 1)``: coefficients and intercept in the units of the
        data.
    """
    mean, std = features.mean(1, keepdims=True), features.std(1, keepdims=True)
    std = np.where(std > 0, std, 1.0)
    centre = np.median(targets, axis=1, keepdims=True)
    scale = np.subtract(*np.quantile(targets, [0.75, 0.25], axis=1, keepdims=True))
    x, y = (features - mean) / std, (targets - centre) / scale
    points = np.empty((len(options), len(x), x.shape[2] + 1))
    groups = {}
    for i, option in enumerate(options):
        groups.setdefault(option.get("trimmed"), []).append(i)
    for trimmed, group in groups.items():
        names = [name for name in options[group[0]] if name != "trimmed"]
        arrays = {n: np.repeat([options[i][n] for i in group], len(x)) for n in names}
        many = np.tile(x, (len(group), 1, 1)), np.tile(y, (len(group), 1))
        if method == "ridge":
            fitted = fit_ridge(many[0], many[1][..., None], arrays["lam"][:, None, None])[..., 0]
        elif method == "huber":
            fitted = fit_huber(*many, **arrays)
        else:
            fit = {"trimmed": fit_trimmed, "soft_trimmed": fit_soft_trimmed}[method]
            fitted = fit(*many, trimmed, **arrays)
        points[group] = fitted.reshape(len(group), len(x), -1)
    points[..., :-1] *= scale / std[:, 0]
    points[..., -1] = points[..., -1] * scale[:, 0] + centre[:, 0]
    points[..., -1] -= np.sum(points[..., :-1] * mean[:, 0], axis=-1)
    return points


def robust_regression(features, targets, fraction, candidates, num_outer, num_inner, seed):
    """Corrupt training targets, tune each method by inner folds, and test on clean targets.

    The inner score is the median absolute residual, the same for all methods, since the held-out
    targets of an inner fold are corrupted like the rest.

    Returns
    -------
    dict
        For each method ``r2``, a list over the outer folds, and ``chosen``, the settings.
    """
    outer, inner = nested_split(len(targets), num_outer, num_inner, seed)
    noisy = np.tile(targets, (num_outer, 1))
    for fold, (train, _) in enumerate(outer):
        rng = np.random.default_rng([seed, fold, round(100 * fraction)])
        noisy[fold, train] = corrupt(targets[train], fraction, rng)
    folds = [(i, *rows) for i, group in enumerate(inner) for rows in group]
    size = min(len(train) for train, _ in outer)
    results = {}
    for method, options in candidates.items():
        x = np.stack([features[rows] for _, rows, _ in folds])
        y = np.stack([noisy[i, rows] for i, rows, _ in folds])
        points = fit_regression(method, x, y, options)
        errors = np.empty(points.shape[:2])
        for j, (i, _, held) in enumerate(folds):
            predicted = points[:, j, :-1] @ features[held].T + points[:, j, -1:]
            errors[:, j] = np.median(np.abs(predicted - noisy[i, held]), axis=1)
        best = errors.reshape(len(options), num_outer, num_inner).mean(2).argmin(0)
        results[method] = {"r2": [], "chosen": [options[i] for i in best]}
        for fold, (train, test) in enumerate(outer):
            rows, option = train[:size], [options[best[fold]]]
            point = fit_regression(method, features[rows][None], noisy[fold, rows][None], option)
            residuals = features[test] @ point[0, 0, :-1] + point[0, 0, -1] - targets[test]
            r2 = 1 - np.mean(residuals**2) / np.var(targets[test])
            results[method]["r2"].append(float(r2))
    return results


def robust_settings(profile):
    """Set up robust regression: 20 candidates for each method, or a small part of them."""
    paper = profile == "paper"
    lams = [1e-4, 1e-2, 1e-1, 1.0] if paper else [1e-2]
    trimmed = [0.1, 0.2, 0.3, 0.4, 0.5] if paper else [0.1, 0.3, 0.5]
    epsilons = [0.1, 1.0, 10.0, 1000.0] if paper else [1.0]
    thresholds = [0.05, 0.2, 0.5, 1.0, 2.0] if paper else [0.05, 0.2, 1.0]
    return {
        "datasets": ["diabetes", "boston", "autompg", "abalone"] if paper else ["autompg"],
        "fractions": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5] if paper else [0.0, 0.2, 0.4],
        "candidates": {
            "ridge": [{"lam": float(lam)} for lam in np.logspace(-4, 2, 20 if paper else 3)],
            "huber": [{"threshold": t, "lam": lam} for t in thresholds for lam in lams],
            "trimmed": [{"trimmed": k, "lam": lam} for k in trimmed for lam in lams],
            "soft_trimmed": [{"trimmed": k, "epsilon": e} for k in trimmed for e in epsilons],
        },
        "num_outer": 10 if paper else 3,
        "num_inner": 5 if paper else 2,
        "max_items": 1500,
        "seed": 0,
    }


def run_robust(unit, settings):
    """Run all methods on one data set with one fraction of outliers (``"boston/0.3"``)."""
    name, fraction = unit.split("/")
    features, targets = data.load_regression(name)
    rows = np.random.default_rng(0).permutation(len(targets))[: settings["max_items"]]
    arguments = {key: settings[key] for key in ("candidates", "num_outer", "num_inner", "seed")}
    return robust_regression(features[rows], targets[rows], float(fraction), **arguments)


# Top-k classification, section 6.1


def top_k_loss(name, epsilon, k):
    """Build a loss of scores ``(batch, n)`` and labels by its name.

    As in the paper, soft ranks are taken of the scores squashed to [0, 1].
    """
    if name == "cross_entropy":
        return lambda theta, labels: optax.softmax_cross_entropy_with_integer_labels(
            theta, labels
        ).mean()
    if name in ("l2", "kl"):
        return lambda theta, labels: soft_top_k_loss(
            jax.nn.sigmoid(theta), labels, k, epsilon=epsilon, regularization=name
        ).mean()
    rank = {"all_pairs": all_pairs_rank, "sinkhorn": sinkhorn_rank}[name]

    def loss(theta, labels):
        ranks = rank(jax.nn.sigmoid(theta), epsilon, descending=True)
        own = jnp.take_along_axis(ranks, labels[:, None], axis=1)[:, 0]
        return jnp.maximum(0.0, own - k).mean()

    return loss


def mlp_init(key, sizes):
    """Draw the weights of a network with ReLU layers."""
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = zip(sizes[:-1], sizes[1:], strict=True)
    return [
        (jax.random.normal(k, shape, jnp.float32) * (2 / shape[0]) ** 0.5, jnp.zeros(shape[1]))
        for k, shape in zip(keys, shapes, strict=True)
    ]


def mlp(parameters, images):
    """Compute the scores of a network with ReLU layers."""
    for weight, bias in parameters[:-1]:
        images = jax.nn.relu(images @ weight + bias.astype(images.dtype))
    weight, bias = parameters[-1]
    return images @ weight + bias.astype(images.dtype)


@functools.partial(jax.jit, static_argnames=("loss", "k", "sizes", "num_epochs", "batch_size"))
def train(key, images, labels, learning_rate, epsilon, *, loss, k, sizes, num_epochs, batch_size):
    """Train a network by Adam with a constant step; returns its parameters.

    Everything is one compiled loop; randomness (weights, order of the images) comes from `key`.
    """
    objective = top_k_loss(loss, epsilon, k)
    optimizer = optax.scale_by_adam()
    init_key, order_key = jax.random.split(key)
    parameters = jax.tree.map(lambda p: p.astype(jnp.float32), mlp_init(init_key, sizes))
    num_batches = len(images) // batch_size

    def step(carry, rows):
        parameters, state = carry
        gradient = jax.grad(lambda p: objective(mlp(p, images[rows]), labels[rows]))(parameters)
        update, state = optimizer.update(gradient, state)
        parameters = jax.tree.map(lambda p, u: p - learning_rate * u, parameters, update)
        return (parameters, state), None

    def epoch(carry, key):
        order = jax.random.permutation(key, len(images))[: num_batches * batch_size]
        return jax.lax.scan(step, carry, order.reshape(num_batches, batch_size))

    keys = jax.random.split(order_key, num_epochs)
    (parameters, _), _ = jax.lax.scan(epoch, (parameters, optimizer.init(parameters)), keys)
    return parameters


def top_k_accuracy(theta, labels, k):
    """Compute the share of rows whose label is among the k largest scores."""
    theta = np.asarray(theta)
    own = np.take_along_axis(theta, np.asarray(labels)[:, None], axis=1)
    return float(np.mean((theta > own).sum(1) < k))


def top_k(loss, k, candidates, num_splits, num_seeds, seed=0, num_train=None, **network):
    """Tune one loss on held-out fifths of the training images, then test it over seeds.

    Parameters
    ----------
    loss : str
        ``"cross_entropy"``, ``"l2"``, ``"kl"``, ``"all_pairs"`` or ``"sinkhorn"``.
    k : int
        Which top-k accuracy the loss and the tuning aim at.
    candidates : list of dict
        Values of ``learning_rate`` and ``epsilon``.
    num_splits : int
        How many of the five fifths a candidate is validated on.
    num_seeds, seed, num_train : int
        Runs of the chosen candidate, the seed of all of them, and how much of the data.
    **network
        ``sizes`` of the layers, ``num_epochs``, ``batch_size``.

    Returns
    -------
    dict
        The chosen candidate, validation accuracies, and top-1 to top-5 test accuracies by seed.
    """
    images, labels, test_images, test_labels = fashion_mnist(num_train)
    network = {**network, "sizes": tuple(network["sizes"]), "loss": loss, "k": k}
    key = jax.random.key(seed)
    folds = np.array_split(np.arange(len(images)), 5)[:num_splits]

    def validation(candidate):
        found = []
        for fold, held in enumerate(folds):
            rows = np.setdiff1d(np.arange(len(images)), held)
            fold_key = jax.random.fold_in(key, fold)
            fitted = train(fold_key, images[rows], labels[rows], **as_float32(candidate), **network)
            found.append(top_k_accuracy(mlp(fitted, images[held]), labels[held], k))
        return float(np.mean(found))

    tuning = [validation(candidate) for candidate in candidates]
    chosen = candidates[int(np.argmax(tuning))]
    accuracy = {f"top{j}": [] for j in range(1, 6)}
    for run_key in jax.random.split(jax.random.fold_in(key, num_splits), num_seeds):
        theta = mlp(train(run_key, images, labels, **as_float32(chosen), **network), test_images)
        for j in range(1, 6):
            accuracy[f"top{j}"].append(top_k_accuracy(theta, test_labels, j))
    return {"chosen": chosen, "validation": tuning, "accuracy": accuracy}


def as_float32(candidate):
    """Make the numbers of a candidate float32 arrays, so that one compilation serves all."""
    return {name: jnp.float32(value) for name, value in candidate.items()}


def fashion_mnist(num_train=None):
    """Load the images as float32 rows in [0, 1], the training part in a random order."""
    images, labels = data.load_fashion_mnist("train")
    order = np.random.default_rng(0).permutation(len(images))[:num_train]
    test_images, test_labels = data.load_fashion_mnist("test")

    def rows(images):
        return jnp.asarray(images.reshape(len(images), -1) / 255, jnp.float32)

    return (
        rows(images[order]),
        jnp.asarray(labels[order], jnp.int32),
        rows(test_images),
        test_labels.astype(np.int32),
    )


def top_k_settings(profile):
    """Set up top-k classification: nine candidates and twelve seeds for each loss."""
    paper = profile == "paper"
    rates = [3e-4, 1e-3, 3e-3] if paper else [1e-3]
    strengths = {
        "l2": [0.03, 0.1, 0.3] if paper else [0.1],
        "kl": [0.1, 0.3, 1.0] if paper else [0.3],
        "all_pairs": [0.01, 0.1, 1.0] if paper else [0.1],
        "sinkhorn": [0.1, 0.3, 1.0] if paper else [0.1],
    }
    candidates = {
        loss: [{"learning_rate": rate, "epsilon": e} for rate in rates for e in epsilons]
        for loss, epsilons in strengths.items()
    }
    rates = [float(r) for r in np.logspace(-4, -2, 9)] if paper else [1e-3]
    candidates["cross_entropy"] = [{"learning_rate": rate, "epsilon": 1.0} for rate in rates]
    units = [f"{loss}/{k}" for k in (1, 3) for loss in ("cross_entropy", "l2", "kl", "all_pairs")]
    return {
        "units": [*units, "sinkhorn/1"] if paper else ["cross_entropy/1", "l2/1"],
        "candidates": candidates,
        "num_splits": 3 if paper else 1,
        "num_seeds": 12 if paper else 2,
        "sizes": [784, 128, 10],
        "num_epochs": 20 if paper else 10,
        "batch_size": 100,
        "num_train": 5000 if paper else 2000,
        "seed": 0,
    }


def run_top_k(unit, settings):
    """Run one loss with one k (``"l2/1"``)."""
    loss, k = unit.split("/")
    keys = ("num_splits", "num_seeds", "seed", "num_train", "sizes", "num_epochs", "batch_size")
    arguments = {key: settings[key] for key in keys}
    return top_k(loss, int(k), settings["candidates"][loss], **arguments)


# Run time and memory, section 6.2


def runtime_settings(profile):
    """Set up the growth curves: one row of n, and the paper's batches of 128."""
    paper = profile == "paper"
    single = [100, 316, 1000, 3162, 10_000, 31_623, 100_000, 316_228, 1_000_000]
    many = [100, 500, 1000, 2000, 3000, 5000]
    sizes = {f"{method}/1": single for method in (*OURS, "jax_sort", *OTHERS)}
    sizes |= {f"{method}/128": many for method in (*OURS, *OTHERS)}
    if not paper:
        sizes = {f"{method}/1": single[2:6:2] for method in (OURS[0], OTHERS[0])}
    limits = {"limit_s": 10, "limit_bytes": 4e9, "timeout": 1200}
    return {"sizes": sizes, "dtype": "float64", "seed": 0, **limits}


@functools.cache
def runtime_series(method, name, batch, sizes, limit_s, limit_bytes, timeout):
    """Measure a series once, for all its sizes."""
    module = "book.experiments.sorting_ranks"
    return growth.series(module, method, name, batch, sizes, limit_s, limit_bytes, timeout)


def run_runtime(unit, settings):
    """Measure one method, batch and size (``"soft_rank_l2/1/1000"``)."""
    method, batch, n = unit.split("/")
    sizes = tuple(settings["sizes"][f"{method}/{batch}"])
    limits = [settings[key] for key in ("limit_s", "limit_bytes", "timeout")]
    operations = growth.OPERATIONS if method in OURS else ("value", "gradient")
    return {
        name: runtime_series(method, name, int(batch), sizes, *limits)[int(n)]
        for name in operations
    }


EXPERIMENTS = {
    "label_ranking": Experiment(
        label_ranking_settings,
        lambda settings: [f"{d}/{m}" for d in settings["datasets"] for m in settings["methods"]],
        run_label_ranking,
    ),
    "robust": Experiment(
        robust_settings,
        lambda settings: [f"{d}/{f}" for d in settings["datasets"] for f in settings["fractions"]],
        run_robust,
    ),
    "topk": Experiment(top_k_settings, lambda settings: settings["units"], run_top_k),
    "runtime": Experiment(
        runtime_settings,
        lambda settings: [
            f"{name}/{n}" for name, sizes in settings["sizes"].items() for n in sizes
        ],
        run_runtime,
    ),
}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main("sorting", EXPERIMENTS, claims)
