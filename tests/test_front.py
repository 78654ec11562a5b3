"""The front of the book: the README runs, pages are complete, the scoreboard shows its files."""

import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path

import pytest
from pybtex.database import parse_file

import diffopt
from diffopt import hypergradient, kernels, oracles, sparse_linear

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
README = (ROOT / "README.md").read_text()
PUBLIC = {name: getattr(diffopt, name) for name in diffopt.__all__}
PUBLIC = {name: function for name, function in PUBLIC.items() if inspect.isfunction(function)}


def load(path):
    """A module of the book, which is no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


front = load(BOOK / "_ext" / "front.py")
KEYS = {paper.key for paper in front.PAPERS}


def test_readme_example_prints_what_it_says(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out.split("\n")[:-1]
    promised = re.findall(r"print\(.*# (\[.*?\])", code)
    assert promised and printed == promised


@pytest.mark.parametrize("page", ["README.md", "book/how_to_read.md"])
def test_make_targets_exist(page):
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.S)
    wanted = re.findall(r"^make (\w+)", "\n".join(blocks), re.M)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {"book", "test"} <= set(wanted) <= set(targets)


def test_readme_shows_files_that_exist():
    files = re.findall(r'src="([^"]+)"', README)
    files += re.findall(r"`([\w.]+(?:/[\w.]+)*\.(?:md|py|cff|bib))`", README)
    files += re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert len(files) > 5
    assert [name for name in files if not (ROOT / name).is_file()] == []
    assert re.search(r'<img [^>]*alt="[^"]{40,}"', README, re.S)


def test_every_public_function_is_in_the_reference_once():
    pages = "\n".join(path.read_text() for path in (BOOK / "api").glob("*.md"))
    listed = re.findall(r"autofunction:: (\w+)", pages)
    modules = (
        *kernels.__all__,
        *oracles.__all__,
        *sparse_linear.__all__,
        *hypergradient.__all__,
    )
    wanted = [*PUBLIC, *(name for name in modules if name.islower())]
    assert sorted(listed) == sorted(wanted)
    index = (BOOK / "api" / "index.md").read_text()
    assert [name for name in PUBLIC if f"`diffopt.{name}`" not in index] == []


def test_every_argument_is_in_the_notation():
    names = set(re.findall(r"`(\w+)(?:=[^`]*)?`", (BOOK / "notation.md").read_text()))
    used = {name for function in PUBLIC.values() for name in inspect.signature(function).parameters}
    assert used - names == set()


def test_docstrings_link_to_a_chapter():
    assert [name for name, f in PUBLIC.items() if ":ref:`" not in (f.__doc__ or "")] == []


def test_bibliography_has_the_sixteen_papers():
    entries = parse_file(BOOK / "references.bib").entries
    marked = {
        key for key, entry in entries.items() if "monograph" in entry.fields.get("keywords", "")
    }
    assert marked == KEYS and len(front.PAPERS) == 16
    for key, entry in entries.items():
        assert {"title", "year"} <= set(entry.fields) and entry.persons["author"], key
        assert re.fullmatch(r"[a-z]+\d{4}[a-z]+", key) and entry.fields["year"] in key


def test_pages_of_prose_ask_for_no_kernel():
    pages = ("intro", "notation", "how_to_read", "scoreboard", "glossary", "bibliography")
    for path in [*(BOOK / f"{page}.md" for page in pages), *(BOOK / "api").glob("*.md")]:
        assert "kernelspec" not in path.read_text(), path


def test_placeholders_are_where_they_are_filled():
    text = "".join((ROOT / f"{page}.md").read_text() for page in front.PAGES)
    assert re.findall(r"^```{(chapters|papers|scoreboard)}\n```$", text, re.M) == [
        "chapters",
        "papers",
        "scoreboard",
    ]


def test_a_chapter_that_is_written_has_a_card_with_a_picture():
    for paper in front.PAPERS:
        if (BOOK / f"{paper.chapter}.md").is_file():
            card = front.chapters_markdown([paper.chapter])
            assert f":link: {paper.chapter}" in card and f":img-alt: {paper.picture}" in card
            assert len(paper.picture) > 40
            assert (BOOK / "_images" / f"{paper.chapter}.svg").is_file()


def test_list_of_papers_tells_ready_from_planned():
    table = front.papers_markdown(["sorting"])
    assert table.count("`ready`") == 1 and table.count("*(planned)*") == 15
    assert all(f"`{key}`" in table for key in KEYS)


CLAIM = {
    "paper": "blondel2020fast",
    "claim": "ranks | better on 15 of 21",
    "where": "Table 1",
    "our_number": 0.123456,
    "verdict": "partly",
    "link": "sorting-limits",
}
SPEED = {"operator": "soft_rank", "batch": 128, "n": 1000, "mode": "value"}


def test_scoreboard_shows_what_is_stored(tmp_path):
    results = {
        "profile": "paper",
        "wall_time_s": 600.0,
        "claims": [CLAIM],
        "versions": {"jax": "1"},
    }
    (tmp_path / "sorting.json").write_text(json.dumps(results))
    ms = {"diffopt": [1.0, 2.0, 3.0], "slow": [9.0, 9.0, 9.0], "fast": [1.0, 3.0, 4.0]}
    bench = {"about": {"cpu": "a CPU"}, "rows": [SPEED | {"ms": ms}]}
    (tmp_path / "bench_sorting.json").write_text(json.dumps(bench))
    page = front.scoreboard_markdown(tmp_path, ["sorting"])
    assert "1 claims of 1 paper" not in page and "1 claim of 1 paper" in page
    assert r"| ranks \| better on 15 of 21 <br> *Table 1* | 0.1235 | {bdg-warning}`partly`" in page
    assert "{ref}`how <sorting-limits>`" in page and "10 minutes" in page and "jax 1" in page
    assert "| 128 × 1,000 | 1.50× (least 1.50×) |" in page and "a CPU" in page
    assert page.count("{cite:p}") == 15


def test_scoreboard_without_results_says_so(tmp_path):
    page = front.scoreboard_markdown(tmp_path, [])
    assert "No results file" in page and page.count("{cite:p}") == 16 and "|" not in page


def test_stored_claims_are_complete():
    for chapter, results in front.read_results(BOOK / "results").items():
        for claim in results["claims"]:
            assert set(CLAIM) <= set(claim), (chapter, claim)
            assert claim["paper"] in KEYS and claim["verdict"] in front.BADGES, claim


def test_pictures_can_be_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BOOK), *sys.path])
    images = load(BOOK / "images.py")
    monkeypatch.setattr(images, "IMAGES", tmp_path)
    images.main()
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    assert drawn == {path.name for path in (BOOK / "_images").glob("*.svg")}
    assert all("<path" in (tmp_path / name).read_text() for name in drawn)
