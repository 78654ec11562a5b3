"""The parts of the front pages that are drawn from the project itself, never typed.

Three placeholders in MyST pages, written like directives, are filled before a page is parsed:
`{chapters}` (a card for each chapter in the book), `{papers}` (the sixteen papers and where each
one stands) and `{scoreboard}` (every claim in `book/results/*.json` beside our number). A chapter
is ready when its page is in the table of contents; a number is there when a results file has it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.typing import ExtensionMetadata

BOOK = Path(__file__).resolve().parents[1]
PAGES = ("book/intro", "book/scoreboard")  # read again on every build
BADGES = {"reproduced": "success", "partly": "warning", "not reproduced": "danger"}


class Paper(NamedTuple):
    """One paper: its key in `references.bib`, its chapter and module, what it answers."""

    key: str
    chapter: str
    title: str
    question: str
    picture: str = ""  # what `_images/<chapter>.svg` shows, once there is a chapter


PAPERS = (
    Paper(
        "blondel2020fast",
        "sorting",
        "Sorting and ranking",
        "How does one take the derivative of a rank, in n log n time?",
        "Ranks of one value among four fixed ones while it moves: the hard rank climbs in steps, "
        "the soft ranks climb in slopes, gentler as epsilon grows",
    ),
    Paper(
        "blondel2020learning",
        "fenchel_young",
        "Fenchel-Young losses",
        "Which loss belongs to which prediction map, and when is a prediction exactly sparse?",
        "Probability of one of three classes against its score: the softmax never reaches zero or "
        "one, the entmax and the sparsemax do, and the hard choice jumps",
    ),
    Paper(
        "blondel2019structured",
        "structured",
        "Projection oracles",
        "What does one gain by projecting on a smaller polytope?",
        "Points around the unit square with segments to their projections onto it and onto the "
        "half of it where at most one of two labels is chosen",
    ),
    Paper(
        "berthet2020learning",
        "perturbed",
        "Perturbed optimizers",
        "How can one learn through a solver that is a black box?",
        "Contour lines of hills, a cheapest path between two corners drawn as rings, and around it "
        "discs whose area is the share of perturbed paths that cross a cell",
    ),
    Paper(
        "martins2022sparse",
        "continuous",
        "Sparse continuous distributions",
        "What is sparsemax when there are infinitely many classes?",
    ),
    Paper(
        "mensch2019geometric",
        "geometric",
        "Geometric losses",
        "How does a loss learn that some classes are close to each other?",
    ),
    Paper(
        "blondel2021differentiable",
        "soft_dtw",
        "Divergences between time series",
        "Why is soft-DTW negative, and what should replace it?",
        "Two time series, one above the other, with lines between the points that soft-DTW aligns: "
        "few lines where gamma is small, fans of many where it is large",
    ),
    Paper(
        "sander2022sinkformers",
        "sinkformer",
        "Sinkformers",
        "What changes when attention is doubly stochastic?",
    ),
    Paper(
        "sander2021momentum",
        "momentum",
        "Momentum residual networks",
        "Can a deep network be trained without storing its activations?",
    ),
    Paper(
        "bertrand2020implicit",
        "lasso",
        "Implicit differentiation of the Lasso",
        "What is the gradient of a held-out error in the penalty?",
        "Coefficients of a Lasso against the penalty: piecewise linear paths that leave zero one "
        "after the other, with a dotted vertical line at each knot",
    ),
    Paper(
        "bertrand2022implicit",
        "nonsmooth_learning",
        "Non-smooth convex learning",
        "How wrong is a hypergradient when the solver stops early?",
        "Dual variables of a support vector machine against C, logarithmic: all climb along their "
        "common bound; three leave it on thick free curves, one of which falls to zero",
    ),
    Paper(
        "carr2021self",
        "permutations",
        "Learning from permutations",
        "What does a network learn by putting shuffled sounds in order?",
    ),
    Paper(
        "massias2020support",
        "pivotal",
        "Pivotal estimation",
        "Can the best penalty be known without knowing the noise?",
    ),
    Paper(
        "bolte2021conservative",
        "conservative",
        "Conservative fields",
        "What does automatic differentiation compute where there is no derivative?",
    ),
    Paper(
        "waldspurger2020rank",
        "burer_monteiro",
        "Burer-Monteiro factorisation",
        "How large must the factors be before bad minima disappear?",
    ),
    Paper(
        "chizat2020implicit",
        "max_margin",
        "Max-margin bias of wide networks",
        "Which classifier does gradient descent choose when many fit perfectly?",
    ),
)


def chapters_markdown(ready: Collection[str]) -> str:
    """A card with a picture for each chapter that is in the book."""
    cards = [
        f"""
````{{grid-item-card}} {paper.title}
:link: {paper.chapter}
:link-type: doc
:img-top: _images/{paper.chapter}.svg
:img-alt: {paper.picture}
:class-img-top: dark-light

{paper.question}

{{cite:t}}`{paper.key}`
````"""
        for paper in PAPERS
        if paper.chapter in ready
    ]
    if not cards:
        return "No chapter is ready yet.\n"
    return "`````{grid} 1 1 2 2\n:gutter: 3\n" + "\n".join(cards) + "\n`````\n"


def papers_markdown(ready: Collection[str]) -> str:
    """The sixteen papers: the question, the paper, and whether its chapter can be read."""
    rows = [
        "| "
        + (
            f"{{doc}}`{paper.title} <{paper.chapter}>` {{bdg-success}}`ready`"
            if paper.chapter in ready
            else f"{paper.title} *(planned)*"
        )
        + f" | {paper.question} | {{cite:t}}`{paper.key}` |"
        for paper in PAPERS
    ]
    return "\n".join(["| Chapter | The question | Paper |", "|---|---|---|", *rows]) + "\n"


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The results file of each chapter that has one with claims in it."""
    found = {}
    for paper in PAPERS:
        path = folder / f"{paper.chapter}.json"
        if path.is_file():
            results = json.loads(path.read_text(encoding="utf-8"))
            if results.get("claims"):
                found[paper.chapter] = results
    return found


def scoreboard_markdown(folder: Path, ready: Collection[str]) -> str:
    """Every claim in the results files, our number beside it, the speed, and what is missing."""
    results = read_results(folder)
    claims = [claim for chapter in results.values() for claim in chapter["claims"]]
    parts = [_summary(len(results), claims)]
    for paper in PAPERS:
        if paper.chapter in results:
            parts.append(_claims(paper, results[paper.chapter], paper.chapter in ready))
        if (bench := folder / f"bench_{paper.chapter}.json").is_file():
            parts.append(_speed(paper, json.loads(bench.read_text(encoding="utf-8"))))
    missing = [paper for paper in PAPERS if paper.chapter not in results]
    if missing:
        names = "; ".join(f"{paper.title} {{cite:p}}`{paper.key}`" for paper in missing)
        parts.append(f"## No results yet\n\nNo claim of these papers has been checked: {names}.\n")
    return "\n\n".join(parts)


def _summary(num_chapters: int, claims: list[dict[str, Any]]) -> str:
    if not claims:
        return "No results file has been written yet, so there is nothing to show.\n"
    counts = Counter(str(claim["verdict"]) for claim in claims)
    order = [*BADGES, *sorted(set(counts) - set(BADGES))]
    verdicts = ", ".join(f"{_badge(name)} {counts[name]}" for name in order if counts[name])
    papers = "1 paper" if num_chapters == 1 else f"{num_chapters} papers"
    checked = "1 claim" if len(claims) == 1 else f"{len(claims)} claims"
    return f"Checked so far, {checked} of {papers}: {verdicts}.\n"


def _claims(paper: Paper, results: dict[str, Any], ready: bool) -> str:
    rows = []
    for claim in results["claims"]:
        where = f"<br> *{_cell(claim['where'])}*" if claim.get("where") else ""
        verdict = f"{_badge(str(claim['verdict']))} {_link(claim.get('link'), ready)}"
        rows.append(
            f"| {_cell(claim['claim'])} {where} | {_cell(claim['our_number'])} | {verdict} |"
        )
    chapter = f", chapter {{doc}}`{paper.title} <{paper.chapter}>`" if ready else ""
    heading = f"## {paper.title}\n\n{{cite:t}}`{paper.key}`{chapter}.\n"
    table = "\n".join(["| The paper's claim | Our number | Verdict |", "|---|---|---|", *rows])
    return f"{heading}\n{table}\n\n{_provenance(f'{paper.chapter}.json', results)}"


def _speed(paper: Paper, bench: dict[str, Any]) -> str:
    """For each size, by how much we are faster than the fastest other package: median, least."""
    ratios: dict[str, dict[str, list[float]]] = {}
    for row in sorted(bench["rows"], key=lambda row: (row.get("n", 0), row.get("batch", 0))):
        others = [ms[1] for name, ms in row["ms"].items() if not name.startswith("diffopt")]
        if others and "diffopt" in row["ms"]:
            size = f"{row['batch']:,} × {row['n']:,}" if "n" in row else row["problem"]
            modes = ratios.setdefault(size, {})
            mode = row.get("mode", "value+gradient")
            modes.setdefault(mode, []).append(min(others) / row["ms"]["diffopt"][1])
    names = list(dict.fromkeys(mode for modes in ratios.values() for mode in modes))
    first = "batch × length" if any("n" in row for row in bench["rows"]) else "problem"
    lines = [f"| {first} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for size, modes in ratios.items():
        cells = [
            f"{median(modes[mode]):.2f}× (least {min(modes[mode]):.2f}×)" if mode in modes else ""
            for mode in names
        ]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    return f"""## Speed: {paper.title.lower()}

How many times faster `diffopt` is than the fastest other package in the same run on one thread:
the median over operators and types, and the least of them. Below one, another package is faster.

{table}

{_provenance(f"bench_{paper.chapter}.json", bench.get("about", {}))}"""


def _provenance(name: str, record: dict[str, Any]) -> str:
    facts = [f"{key}: {record[key]}" for key in ("profile", "seed", "date") if key in record]
    facts += [str(record[key]) for key in ("device", "cpu") if key in record]
    if "wall_time_s" in record:
        facts.append(f"{record['wall_time_s'] / 60:.0f} minutes")
    versions = {key: value for key, value in record.get("versions", {}).items() if value}
    facts.append(", ".join(f"{key} {value}" for key, value in versions.items()))
    text = "; ".join(fact for fact in facts if fact) or "no provenance recorded"
    return f"From {{download}}`{name} <results/{name}>`: {text}.\n"


def _badge(verdict: str) -> str:
    return f"{{bdg-{BADGES.get(verdict, 'secondary')}}}`{verdict}`"


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _link(target: str | None, ready: bool) -> str:
    """A link to where the chapter checks the claim: a label, or a page and an anchor."""
    if not target or not ready:
        return ""
    return f"<br> [how](<{target}>)" if "." in target else f"<br> {{ref}}`how <{target}>`"


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the three placeholders of a front page before it is parsed."""
    if docname not in PAGES:
        return
    ready = {paper.chapter for paper in PAPERS if f"book/{paper.chapter}" in app.env.found_docs}
    for name, markdown in {
        "chapters": lambda: chapters_markdown(ready),
        "papers": lambda: papers_markdown(ready),
        "scoreboard": lambda: scoreboard_markdown(BOOK / "results", ready),
    }.items():
        placeholder = f"```{{{name}}}\n```"
        if placeholder in source[0]:
            source[0] = source[0].replace(placeholder, markdown())


def outdated(app: Sphinx, env: BuildEnvironment, *_: object) -> list[str]:
    """Read the front pages again on every build, whatever else has changed."""
    return [page for page in PAGES if page in env.found_docs]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect both."""
    app.connect("source-read", fill)
    app.connect("env-get-outdated", outdated)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
