"""Build the book: execute its chapters through papermill, then the HTML from their outputs.

``python book/build.py html`` executes what changed, ``refresh`` stores the text outputs in the
committed ``.ipynb`` twins, ``linkcheck`` looks at the links that leave the book.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
BUILD = ROOT / "_build"
EXECUTED = BUILD / "executed"
CACHE = BUILD / ".jupyter_cache"


def pages(toc: dict | list | str | None = None) -> list[str]:
    """Every page of ``_toc.yml``, in order, as a path without a suffix."""
    if toc is None:
        toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    if isinstance(toc, list):
        return [page for entry in toc for page in pages(entry)]
    own = [toc[key] for key in ("root", "file") if key in toc]
    return own + [
        page for key in ("parts", "chapters", "sections") for page in pages(toc.get(key, []))
    ]


def chapters() -> list[Path]:
    """The pages that are notebooks: those whose header asks for a kernel."""
    sources = [ROOT / f"{page}.md" for page in pages()]
    return [path for path in sources if "kernelspec" in jupytext.read(path).metadata]


def inputs(chapter: Path) -> list[Path]:
    """The files that a chapter's outputs depend on.

    A file of results or of experiments with another chapter's name in its own is that chapter's.
    """
    others = [path.stem for path in chapters() if path != chapter]
    shared = [
        path
        for folder in ("experiments", "results")
        for path in (BOOK / folder).rglob("*")
        if chapter.stem in path.stem or not any(other in path.stem for other in others)
    ]
    code = [*(ROOT / "diffopt").rglob("*.py"), *(BOOK / "data").rglob("*"), *BOOK.glob("*.py")]
    files = {chapter, ROOT / "constraints.txt", *shared, *code} - {Path(__file__).resolve()}
    return sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts)


def digest(chapter: Path, profile: str) -> str:
    """A hash of the chapter's inputs, the profile and the Python version."""
    total = hashlib.sha256(f"{profile} {platform.python_version()}".encode())
    for path in inputs(chapter):
        total.update(f"{path.relative_to(ROOT)} ".encode() + path.read_bytes())
    return total.hexdigest()


def execute(chapter: Path, profile: str) -> bool:
    """Execute a chapter into ``_build/executed`` unless its inputs are unchanged; say which."""
    import papermill
    from traitlets.config import Config

    target = EXECUTED / f"{chapter.stem}.ipynb"
    stamp = target.with_suffix(".json")
    now = digest(chapter, profile)
    if target.exists() and stamp.exists():
        before = json.loads(stamp.read_text())
        if before["inputs"] == now:
            print(f"{chapter.stem}: unchanged ({before['seconds']:.0f} s when it ran)")
            return False
    EXECUTED.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    source = EXECUTED / f"{chapter.stem}.input.ipynb"
    nbformat.write(jupytext.read(chapter), source)
    start = time.perf_counter()
    papermill.execute_notebook(
        str(source),
        str(target),
        parameters={} if profile == "quick" else {"profile": profile},
        kernel_name="python3",
        cwd=str(BOOK),
        progress_bar=True,
        config=Config(KernelManager={"transport_encryption": "auto"}),
    )
    seconds = time.perf_counter() - start
    stamp.write_text(json.dumps({"inputs": now, "seconds": seconds}))
    print(f"{chapter.stem}: executed in {seconds:.0f} s", flush=True)
    return True


def outputs(chapter: Path) -> list[nbformat.NotebookNode]:
    """The executed code cells, without the one that papermill may inject."""
    notebook = nbformat.read(EXECUTED / f"{chapter.stem}.ipynb", as_version=4)
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]


def put_outputs(notebook: nbformat.NotebookNode, executed: list[nbformat.NotebookNode]) -> None:
    """Copy outputs and counts onto the code cells of the same notebook read from its ``.md``."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, (cell, ran) in enumerate(zip(cells, executed, strict=True), start=1):
        if cell.source.strip() != ran.source.strip():
            raise RuntimeError(f"cell {count} is not the one that ran: {cell.source[:60]!r}")
        cell.outputs, cell.execution_count = ran.outputs, count


def fill_cache() -> None:
    """Put what papermill executed where the build looks, in a cache that starts empty."""
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn
    from myst_nb.core.read import read_myst_markdown_notebook

    shutil.rmtree(CACHE, ignore_errors=True)
    cache = get_cache(CACHE)
    for chapter in chapters():
        notebook = read_myst_markdown_notebook(
            chapter.read_text(encoding="utf8"), add_source_map=True, path=chapter
        )
        put_outputs(notebook, outputs(chapter))
        seconds = json.loads((EXECUTED / f"{chapter.stem}.json").read_text())["seconds"]
        cache.cache_notebook_bundle(
            CacheBundleIn(notebook, str(chapter), data={"execution_seconds": seconds}),
            check_validity=False,
            overwrite=True,
        )


def sphinx(builder: str, *flags: str) -> str:
    """Run Jupyter Book and give its log; a failure shows the log and ends the program."""
    start = time.perf_counter()
    print(f"{builder}: building", flush=True)
    program = Path(sys.executable).with_name("jupyter-book")
    done = subprocess.run(
        [program, "build", *flags, "--builder", builder, "."],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    log = re.sub(r"\x1b\[[\d;]*m", "", done.stdout)
    (BUILD / f"{builder}.log").write_text(log)
    if done.returncode or "Executing notebook" in log:
        # Sphinx reads only what changed, so a second call would not see these warnings again.
        shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
        print(log, *re.findall(".*(?:WARNING|ERROR).*", log), sep="\n")
        if not done.returncode:
            print("A notebook ran outside papermill: its outputs were not found in the cache.")
        raise SystemExit(1)
    print(f"{builder}: built in {time.perf_counter() - start:.0f} s", flush=True)
    return log


def start_afresh() -> None:
    """Drop the built pages when the contents, the settings or the extensions have changed.

    Sphinx would leave pages behind that are no longer in the book.
    """
    total = hashlib.sha256()
    for path in (ROOT / "_toc.yml", ROOT / "_config.yml", *sorted((BOOK / "_ext").glob("*.py"))):
        total.update(path.read_bytes())
    stamp = BUILD / "settings.sha256"
    if not stamp.exists() or stamp.read_text() != total.hexdigest():
        for folder in ("html", ".doctrees"):
            shutil.rmtree(BUILD / folder, ignore_errors=True)
        stamp.write_text(total.hexdigest())


def html(profile: str) -> None:
    """Execute the stale chapters and build the HTML."""
    start_afresh()
    for chapter in chapters():
        if execute(chapter, profile):
            relative = chapter.relative_to(ROOT).with_suffix(".doctree")
            (BUILD / ".doctrees" / relative).unlink(missing_ok=True)
    fill_cache()
    sphinx("html", "-W", "-n", "--keep-going")
    print(f"\nOpen {BUILD / 'html' / 'index.html'}")


def textual(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output without its pictures, or None when nothing of it is to be stored."""
    if output.get("name") == "stderr":
        return None
    if "data" in output:
        output.data = {
            kind: value for kind, value in output.data.items() if not kind.startswith("image/")
        }
    return output


def refresh(profile: str) -> None:
    """Store the text outputs of every chapter in the ``.ipynb`` beside it."""
    for chapter in chapters():
        execute(chapter, profile)
        notebook = jupytext.read(chapter)
        put_outputs(notebook, outputs(chapter))
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number:03d}"  # the same at every refresh, so that diffs stay small
            if cell.cell_type == "code":
                kept = [textual(output) for output in cell.outputs]
                cell.outputs = [output for output in kept if output is not None]
        nbformat.write(notebook, chapter.with_suffix(".ipynb"))
        print(f"{chapter.stem}: stored in {chapter.with_suffix('.ipynb').relative_to(ROOT)}")


def main() -> None:
    """Parse the command line and run one of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["html", "refresh", "linkcheck"])
    parser.add_argument("--profile", choices=["quick", "paper"], default="quick")
    arguments = parser.parse_args()
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    BUILD.mkdir(exist_ok=True)
    if arguments.command == "html":
        html(arguments.profile)
    elif arguments.command == "refresh":
        refresh("quick")
    else:
        for chapter in chapters():
            execute(chapter, "quick")
        fill_cache()
        sphinx("linkcheck", "--keep-going")


if __name__ == "__main__":
    main()
