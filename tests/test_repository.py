"""What must agree between files: environments, addresses, versions, names, and imports."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
ADDRESS = CONFIG["repository"]["url"]
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

TOP_LEVEL = {
    *("book", "diffopt", "tests", ".ci", ".github"),
    *("_config.yml", "_toc.yml", "environment.yml", "pyproject.toml", "constraints.txt"),
    *("Makefile", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md"),
    *(".gitignore", ".pre-commit-config.yaml"),
}

# Imports point down: the base, then pieces, then the modules named after papers.
BASE = {"kernels", "checks"}
PIECES = {
    "isotonic",
    "permutahedron",
    "projections",
    "transport",
    "regularizers",
    "sinkhorn",
    "sparse_linear",
    "hypergradient",
    "host",
    "noise",
    "estimators",
    "oracles",
}
PAPERS_MAY_IMPORT = {
    "structured": {"fenchel_young"},
    "pairwise": {"soft_dtw"},
    "barycenter": {"soft_dtw", "pairwise"},
    "time_series": {"soft_dtw", "pairwise", "barycenter"},
    "continuous": {"fenchel_young"},
    "permutations": {"sorting", "perturbed"},
}


def tracked():
    """The committed files; a source without git has none to check."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def texts():
    """Every committed text file with its text."""
    for path in tracked():
        if path.is_file():
            raw = path.read_bytes()
            if b"\0" not in raw:
                yield path, raw.decode()


def toc(entry=None):
    """The pages of ``_toc.yml``."""
    if entry is None:
        entry = yaml.safe_load((ROOT / "_toc.yml").read_text())
    if isinstance(entry, list):
        return [page for item in entry for page in toc(item)]
    pages = [entry[key] for key in ("root", "file") if key in entry]
    return pages + [p for key in ("parts", "chapters", "sections") for p in toc(entry.get(key, []))]


def test_conda_environment_is_the_one_of_make():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = (item["pip"] for item in environment if isinstance(item, dict))
    line = re.search(r"^INSTALL := (.*)$", MAKEFILE, re.M)[1].replace(
        "$(CONSTRAINTS)", re.search(r"^CONSTRAINTS \?= (.*)$", MAKEFILE, re.M)[1]
    )
    assert shlex.split(" ".join(pip)) == shlex.split(line)
    assert f"python{PROJECT['requires-python']}" in environment
    assert "pip" in environment


def test_extras_that_make_installs_exist():
    wanted = set(re.findall(r'\.\[([\w,]+)\]"', MAKEFILE))
    extras = {extra for group in wanted for extra in group.split(",")}
    assert extras == set(PROJECT["optional-dependencies"])


def test_constraints_name_versions_and_no_address():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[\w.-]+==[\w.+!]+( ; .+)?", line), line


def test_top_level_is_the_fixed_one():
    names = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert names == TOP_LEVEL


def test_repository_address_is_written_once():
    owner_and_name = ADDRESS.removeprefix("https://github.com/")
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", owner_and_name), ADDRESS
    hosts = r"github\.com|raw\.githubusercontent\.com|colab\.research\.google\.com/github"
    names = f"(?:diffopt|{re.escape(owner_and_name.split('/')[1])})"
    places = 0
    for path, text in texts():
        found = set(re.findall(rf"(?:{hosts})/([\w.-]+/{names})(?![\w-])", text))
        assert found <= {owner_and_name}, f"{path} names another repository"
        places += bool(found)
    assert places >= 2  # _config.yml and CITATION.cff at least: the search does find things
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["repository-code"] == ADDRESS
    assert PROJECT["urls"]["Repository"] == ADDRESS


def test_no_path_of_a_machine_and_no_registry():
    pattern = re.compile(
        r"(?<![\w.])/(?:home|root|work|Users|mnt|srv)/|--(?:extra-)?index-url|\"resolved\":"
    )
    for path, text in texts():
        if path != Path(__file__).resolve():
            assert not pattern.search(text), path


def test_one_version():
    assert (
        yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
        == re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
        == PROJECT["version"]
    )


def test_one_chapter_is_one_module_and_one_test_file():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    (part,) = (part for part in contents["parts"] if part["caption"] == "Chapters")
    for page in toc(part):
        name = Path(page).name
        for path in (f"diffopt/{name}.py", f"tests/test_{name}.py", f"book/{name}.ipynb"):
            assert (ROOT / path).is_file(), f"the chapter {page} lacks {path}"


def test_every_public_module_has_a_test_file():
    for name in modules().keys() - BASE:  # the base is tested through what stands on it
        assert (ROOT / "tests" / f"test_{name}.py").is_file(), name


def test_make_names_its_targets():
    targets = set(re.findall(r"^([a-z-]+):(?!=)", MAKEFILE, re.M))
    phony = re.search(r"^\.PHONY:((?:.*\\\n)*.*)$", MAKEFILE, re.M)[1]
    assert targets == set(phony.replace("\\\n", " ").split())


def test_workflows_follow_their_schema():
    check = [str(Path(sys.executable).with_name("check-jsonschema")), "--builtin-schema"]
    for schema, files in (
        ("vendor.github-workflows", WORKFLOWS),
        ("vendor.citation-file-format", [ROOT / "CITATION.cff"]),
    ):
        assert files
        done = subprocess.run([*check, schema, *files], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_make_or_ci_run_only(path):
    targets = set(re.findall(r"^([a-z-]+):(?!=)", MAKEFILE, re.M))
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        if command != "bash .ci/run":
            program, *arguments = re.sub(r"\$\{\{.*?\}\}", "x", command).split(" ")
            assert program == "make"
            assert {word for word in arguments if "=" not in word} <= targets, command


def modules():
    """The public modules of diffopt, each with its files: one, or those of its folder."""
    found = {}
    for path in (ROOT / "diffopt").rglob("*.py"):
        name = path.relative_to(ROOT / "diffopt").parts[0].removesuffix(".py")
        if not name.startswith("_") and "__pycache__" not in path.parts:
            found.setdefault(name, []).append(path)
    return found


def imported(path):
    """The modules of diffopt that a module imports, by their first name below the package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"diffopt.{node.module or alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("diffopt."))


def test_imports_point_one_way():
    edges = {
        name: {target for path in files for target in imported(path)} - {name}
        for name, files in modules().items()
    }
    assert edges["kernels"] == set()
    for name, targets in edges.items():
        allowed = BASE | (set() if name in BASE else PIECES | PAPERS_MAY_IMPORT.get(name, set()))
        assert targets <= allowed, f"{name} imports {targets - allowed}"
        if name in PIECES:
            for piece in targets & PIECES:  # pieces may rest on pieces, never in a circle
                assert name not in edges[piece], f"{name} and {piece} import each other"
