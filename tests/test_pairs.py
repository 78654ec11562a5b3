"""Every chapter and the notebook beside it are the same, executed, and open in Colab."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from jupytext.compare import compare_notebooks

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
NOTEBOOKS = sorted((ROOT / "book").rglob("*.ipynb"))
SOURCES = [
    path
    for path in sorted((ROOT / "book").rglob("*.md"))
    if re.match(r"---\n(?:.*\n)*?(?:jupytext|kernelspec):", path.read_text())
]


def name(path):
    return path.stem


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_chapter_has_its_notebook_and_no_notebook_is_alone():
    assert [path.with_suffix("") for path in SOURCES] == [p.with_suffix("") for p in NOTEBOOKS]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_the_pair_agrees(path):
    twin = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    compare_notebooks(twin, jupytext.read(path), "md:myst", allow_expected_differences=True)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_header(path):
    metadata = jupytext.read(path).metadata
    assert metadata["jupytext"]["formats"] == "ipynb,md:myst"
    assert metadata["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_was_executed_in_order(path):
    counts = [cell.execution_count for cell in code(nbformat.read(path, as_version=4))]
    assert counts == list(range(1, len(counts) + 1)), "run `make refresh`"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_holds_text_and_no_picture_and_no_error(path):
    for cell in code(nbformat.read(path, as_version=4)):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert not any(kind.startswith("image/") for kind in output.get("data", {}))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_first_cells_are_the_parameters_and_the_installation(path):
    parameters, first, *_ = code(jupytext.read(path))
    assert {"parameters", "remove-cell"} <= set(parameters.metadata["tags"])
    assert parameters.source.strip() == 'profile = "quick"'
    assert "remove-cell" not in first.metadata.get("tags", [])
    assert "google.colab" in first.source
    assert ADDRESS in first.source
    assert not re.search(r"^\s*!|import \*", first.source, re.M)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_chapter_hides_nothing_else(path):
    for cell in code(jupytext.read(path))[1:]:
        assert not {"remove-cell", "hide-cell"} & set(cell.metadata.get("tags", []))
