"""The built HTML, read as files: links, pictures, maths, and nothing from elsewhere."""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
PAGES = sorted(p for p in HTML.rglob("*.html") if not {"_static", "_sources"} & set(p.parts))
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))

pages = pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(HTML)))


@cache
def read(path):
    return BeautifulSoup(path.read_text(encoding="utf8"), "html.parser")


@cache
def anchors(path):
    return {tag[key] for key in ("id", "name") for tag in read(path).find_all(attrs={key: True})}


def article(path):
    return read(path).find("article") or read(path)


def test_there_is_a_book():
    names = {path.relative_to(HTML).as_posix() for path in PAGES}
    assert {"index.html", "book/intro.html", "genindex.html", "search.html"} <= names
    assert {f"book/{chapter.stem}.html" for chapter in CHAPTERS} <= names


def test_every_page_of_the_contents_is_built():
    text = (ROOT / "_toc.yml").read_text()
    for name in re.findall(r"(?:root|file): (\S+)", text):
        assert (HTML / f"{name}.html").is_file(), name


@pages
def test_links_and_anchors_resolve(path):
    broken = []
    for tag in read(path).find_all(href=True):
        link = urlsplit(tag["href"])
        if link.scheme or link.netloc or tag["href"] == "#":
            continue
        target = (path.parent / unquote(link.path)).resolve() if link.path else path
        if not target.is_file():
            broken.append(f"{tag['href']}: no such file")
        elif link.fragment and target.suffix == ".html":
            if unquote(link.fragment) not in anchors(target):
                broken.append(f"{tag['href']}: no such anchor")
    assert not broken


@pages
def test_what_a_page_loads_is_beside_it(path):
    wanted = [tag["src"] for tag in read(path).find_all(src=True)]
    wanted += [
        tag["href"]
        for tag in read(path).find_all("link", href=True)
        if {"stylesheet", "preload", "icon"} & set(tag.get("rel", []))
    ]
    for address in wanted:
        link = urlsplit(address)
        if link.scheme != "data":
            assert not link.scheme and not link.netloc, address
            assert (path.parent / unquote(link.path)).is_file(), address
    assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", path.read_text())


def test_style_sheets_load_nothing_from_elsewhere():
    sheets = list((HTML / "_static").rglob("*.css"))
    assert sheets
    for path in sheets:
        found = re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//[^)]*", path.read_text())
        assert not found, f"{path.name}: {found[0]}"


@pages
def test_every_picture_says_what_it_shows(path):
    for image in article(path).find_all("img"):
        alt = image.get("alt", "").strip()
        assert len(alt) >= 5, f"{image['src']} has no alt text"
        assert not re.search(r"[0-9a-f]{16,}|\.(png|svg|jpe?g)$|_images/", alt), alt
    for picture in article(path).find_all("svg", role="img"):
        assert picture.get("aria-label") or picture.find("title"), str(picture)[:120]


@pages
def test_no_raw_maths_or_markup(path):
    copy = BeautifulSoup(str(article(path)), "html.parser")
    for tag in copy.select("code, pre, script, style, .math"):
        tag.decompose()
    text = copy.get_text(" ")
    assert not re.search(r"\$\$|\\\(|\\\[|\\begin\{|\{(?:cite|ref|numref|eq|doc|func)\b", text)
    assert "@@" not in text


@pages
def test_one_title_and_a_language(path):
    if path.name == "index.html" and path.parent == HTML:
        assert "book/intro.html" in path.read_text()
        return
    assert len(article(path).find_all("h1")) == 1
    assert read(path).html["lang"] == "en"
    assert read(path).title.get_text(strip=True)


@pages
def test_no_path_of_this_machine(path):
    assert str(ROOT) not in path.read_text(encoding="utf8")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda p: p.stem)
def test_buttons_lead_to_the_chapter(chapter):
    page = read(HTML / "book" / f"{chapter.stem}.html")
    links = {tag["href"] for tag in page.find_all("a", href=True)}
    owner_and_name = REPOSITORY.removeprefix("https://github.com/")
    colab = "https://colab.research.google.com/github"
    assert f"{colab}/{owner_and_name}/blob/main/book/{chapter.name}" in links
    assert f"{REPOSITORY}/edit/main/book/{chapter.stem}.md" in links
    assert REPOSITORY in links


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda p: p.stem)
def test_chapter_shows_what_it_computed(chapter):
    page = article(HTML / "book" / f"{chapter.stem}.html")
    assert page.select(".cell_output")
    assert page.select("figure img")
    assert not page.select(".output.traceback, .output.stderr")
