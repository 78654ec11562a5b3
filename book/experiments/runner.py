"""Run the experiments of a chapter: command line, progress, resumption, provenance.

An experiment is cut into units (a data set, a method, a size). After each unit the results are
written, so that a run that was stopped goes on where it was; a unit is computed again when its
settings have changed, or with ``--fresh``.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

RESULTS = Path(__file__).resolve().parents[1] / "results"


class Experiment(NamedTuple):
    """What `main` has to know of an experiment.

    Attributes
    ----------
    settings : callable
        ``settings(profile)`` gives a dict of everything that the numbers depend on, seeds
        included.
    units : callable
        ``units(settings)`` gives the names of the units.
    run : callable
        ``run(unit, settings)`` gives the result of one unit, as what JSON can hold.
    """

    settings: Callable[[str], dict[str, Any]]
    units: Callable[[dict[str, Any]], Sequence[str]]
    run: Callable[[str, dict[str, Any]], Any]


def device_name():
    """Name the device that jax computes on."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def versions():
    """Give the versions of what the numbers may depend on."""
    packages = ["jax", "jaxlib", "numba", "numpy", "scipy", "scikit-learn", "optax", "ott-jax"]
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def load(path):
    """Read stored results; an empty record where there are none."""
    return json.loads(path.read_text()) if path.is_file() else {"experiments": {}}


def save(record, path):
    """Write results in one step, so that no half-written file is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(path)


def run_experiment(experiment, profile, stored, on_unit=lambda record: None, fresh=False):
    """Run the units of one experiment that are not stored yet.

    Parameters
    ----------
    experiment : Experiment
        What to run.
    profile : {"quick", "paper"}
        Which settings.
    stored : dict
        What an earlier run gave (may be empty).
    on_unit : callable, optional
        Called with the record after each unit.
    fresh : bool, optional
        Compute every unit again.

    Returns
    -------
    dict
        ``settings``, ``wall_time_s``, ``complete``, and ``units``: for each its result, times,
        date and device.
    """
    settings = json.loads(json.dumps(experiment.settings(profile)))
    units = list(experiment.units(settings))
    known = stored.get("units", {}) if stored.get("settings") == settings and not fresh else {}
    done = {unit: known[unit] for unit in units if unit in known}
    record = {"settings": settings, "wall_time_s": 0.0, "units": done}
    progress = tqdm(units, leave=False)
    for unit in progress:
        progress.set_description(unit)
        if unit not in done:
            done[unit] = _run_unit(experiment, unit, settings)
        record["units"] = {name: done[name] for name in units if name in done}
        record["complete"] = len(done) == len(units)
        record["wall_time_s"] = round(sum(u["wall_time_s"] for u in done.values()), 2)
        on_unit(record)
    return record


def _run_unit(experiment, unit, settings):
    wall, cpu = time.perf_counter(), time.process_time()
    result = json.loads(json.dumps(experiment.run(unit, settings)))
    return {
        "result": result,
        "wall_time_s": round(time.perf_counter() - wall, 2),
        "cpu_time_s": round(time.process_time() - cpu, 2),
        "date": datetime.date.today().isoformat(),
        "device": device_name(),
    }


def main(chapter, experiments, claims, argv=None):
    """Run a chapter's experiments from the command line and write ``book/results/CHAPTER.json``.

    Parameters
    ----------
    chapter : str
        Name of the chapter.
    experiments : dict of str to Experiment
        The experiments, in their order.
    claims : callable
        ``claims(experiments)`` judges the paper's claims by the stored records; it is called with
        a dict of those that are there.
    argv : list of str, optional
        Arguments, by default those of the process.
    """
    parser = argparse.ArgumentParser(description=f"Experiments of the chapter `{chapter}`.")
    parser.add_argument("--profile", choices=["quick", "paper"], default="quick")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--only", choices=list(experiments), nargs="+", default=list(experiments))
    parser.add_argument("--fresh", action="store_true", help="forget what is stored")
    parser.add_argument(
        "--out",
        type=Path,
        help="where to write; the default is book/results for the paper profile, else nowhere",
    )
    arguments = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu" if arguments.device == "cpu" else "cuda")
    path = arguments.out
    if path is None and arguments.profile == "paper":
        path = RESULTS / f"{chapter}.json"
    record = load(path) if path else {"experiments": {}}
    record = {
        "chapter": chapter,
        "profile": arguments.profile,
        "device": device_name(),
        "versions": versions(),
        "experiments": record["experiments"],
    }
    for name in arguments.only:

        def keep(part, name=name):
            record["experiments"][name] = part
            parts = record["experiments"].values()
            record["date"] = datetime.date.today().isoformat()
            record["wall_time_s"] = round(sum(p["wall_time_s"] for p in parts), 2)
            record["claims"] = claims(record["experiments"])
            if path:
                save(record, path)

        stored = record["experiments"].get(name, {})
        done = run_experiment(experiments[name], arguments.profile, stored, keep, arguments.fresh)
        print(f"{name}: {len(done['units'])} units, {done['wall_time_s']:.1f} s")
    for claim in record["claims"]:
        print(f"[{claim['verdict']}] {claim['claim']} -- ours: {claim['our_number']}")
    return record


def judge_all(paper, judges, experiments):
    """Judge a paper's claims by those experiments that are complete.

    Parameters
    ----------
    paper : str
        Its key in the bibliography.
    judges : dict of str to list of callable
        For each experiment the functions of its results and its record that make a `verdict`.
    experiments : dict of str to dict
        The stored records.
    """
    found = []
    for name, functions in judges.items():
        record = experiments.get(name, {"units": {}})
        results = {unit: stored["result"] for unit, stored in record["units"].items()}
        if record.get("complete"):
            found += [{"paper": paper, **judge(results, record)} for judge in functions]
    return found


def verdict(claim, where, our_number, reproduced, partly, link):
    """Make the record of one claim; `reproduced` and `partly` are conditions."""
    word = "reproduced" if reproduced else "partly" if partly else "not reproduced"
    return {
        "claim": claim,
        "where": where,
        "our_number": our_number,
        "verdict": word,
        "link": link,
    }
