"""The parts of the front pages that are drawn from the project itself, never typed.

Three directives for MyST pages: `{chapters}` (a card for each chapter that is in the book),
`{papers}` (the sixteen papers and where each one stands) and `{scoreboard}` (every claim in
`book/results/*.json` beside our number). A chapter is "ready" when its page is in the table of
contents; a number is there when a results file has it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

BOOK = Path(__file__).resolve().parents[1]
PAGES = ("book/intro", "book/scoreboard")  # read again on every build
BADGES = {"holds": "success", "holds in part": "warning", "does not hold": "danger"}
PROVENANCE = ("profile", "seed", "date", "device", "wall_time", "versions")


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
    ),
    Paper(
        "blondel2019structured",
        "structured",
        "Projection oracles",
        "What does one gain by projecting on a smaller polytope?",
    ),
    Paper(
        "berthet2020learning",
        "perturbed",
        "Perturbed optimizers",
        "How can one learn through a solver that is a black box?",
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
    ),
    Paper(
        "bertrand2022implicit",
        "nonsmooth_learning",
        "Non-smooth convex learning",
        "How wrong is a hypergradient when the solver stops early?",
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
+++
{{cite:t}}`{paper.key}`
````"""
        for paper in PAPERS
        if paper.chapter in ready
    ]
    return "`````{grid} 1 1 2 2\n:gutter: 3\n" + "\n".join(cards) + "\n`````\n"


def papers_markdown(ready: Collection[str]) -> str:
    """The sixteen papers: the question, the paper, and whether its chapter can be read."""
    rows = [
        f"| {paper.question} | {{cite:t}}`{paper.key}` | "
        + (
            f"{{doc}}`{paper.title} <{paper.chapter}>` |"
            if paper.chapter in ready
            else f"{paper.title} {{bdg-secondary-line}}`planned` |"
        )
        for paper in PAPERS
    ]
    return "\n".join(["| Question | Paper | Chapter |", "|---|---|---|", *rows]) + "\n"


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
    """Every claim in the results files, our number beside it, and what is missing."""
    results = read_results(folder)
    claims = [claim for chapter in results.values() for claim in chapter["claims"]]
    missing = [paper for paper in PAPERS if paper.chapter not in results]
    parts = [_summary(len(results), claims)]
    for paper in PAPERS:
        if paper.chapter in results:
            parts.append(_section(paper, results[paper.chapter], paper.chapter in ready))
    if missing:
        names = "\n".join(f"- {paper.title}, {{cite:t}}`{paper.key}`" for paper in missing)
        parts.append(f"## No results yet\n\n{names}\n")
    return "\n\n".join(parts)


def _summary(num_chapters: int, claims: list[dict[str, Any]]) -> str:
    if not claims:
        return "No results file has been written yet, so there is nothing to show.\n"
    counts = Counter(str(claim["verdict"]) for claim in claims)
    verdicts = ", ".join(f"{_badge(verdict)} {count}" for verdict, count in counts.most_common())
    papers = "1 paper" if num_chapters == 1 else f"{num_chapters} papers"
    return f"{len(claims)} claims of {papers} have been checked: {verdicts}.\n"


def _section(paper: Paper, results: dict[str, Any], ready: bool) -> str:
    rows = []
    for claim in results["claims"]:
        where = f" <br> *{claim['where']}*" if claim.get("where") else ""
        rows.append(
            f"| {_cell(claim['claim'])}{where} | {_cell(claim['our_number'])} "
            f"| {_badge(str(claim['verdict']))} {_link(claim.get('link'), ready)} |"
        )
    heading = f"## {paper.title}\n\n{{cite:t}}`{paper.key}`.\n"
    table = "\n".join(["| The paper's claim | Our number | Verdict |", "|---|---|---|", *rows])
    return f"{heading}\n{table}\n\n{_provenance(paper.chapter, results)}"


def _provenance(chapter: str, results: dict[str, Any]) -> str:
    facts = [
        f"{name.replace('_', ' ')}: {_fact(results[name])}"
        for name in PROVENANCE
        if name in results
    ]
    text = "; ".join(facts) or "no provenance recorded"
    return f"From {{download}}`{chapter}.json <results/{chapter}.json>` ({text}).\n"


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _badge(verdict: str) -> str:
    return f"{{bdg-{BADGES.get(verdict, 'secondary')}}}`{verdict}`"


def _cell(value: Any) -> str:
    return _fact(value).replace("|", "\\|").replace("\n", " ")


def _link(target: str | None, ready: bool) -> str:
    if not target or not ready:
        return ""
    return f"<br> [how](<{target}>)" if "." in target else f"<br> {{ref}}`how <{target}>`"


class _FrontDirective(SphinxDirective):
    """Parse generated MyST where the directive stands."""

    def markdown(self, ready: Collection[str]) -> str:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        ready = {p.chapter for p in PAPERS if f"book/{p.chapter}" in self.env.found_docs}
        return self.parse_text_to_nodes(self.markdown(ready), allow_section_headings=True)


class Chapters(_FrontDirective):
    def markdown(self, ready: Collection[str]) -> str:
        return chapters_markdown(ready)


class Papers(_FrontDirective):
    def markdown(self, ready: Collection[str]) -> str:
        return papers_markdown(ready)


class Scoreboard(_FrontDirective):
    def markdown(self, ready: Collection[str]) -> str:
        return scoreboard_markdown(BOOK / "results", ready)


def _always_outdated(app: Sphinx, env: Any, *_: Any) -> list[str]:
    return [page for page in PAGES if page in env.found_docs]


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_directive("chapters", Chapters)
    app.add_directive("papers", Papers)
    app.add_directive("scoreboard", Scoreboard)
    app.connect("env-get-outdated", _always_outdated)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
