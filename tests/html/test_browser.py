"""The built HTML in a browser: no request leaves the machine, no error, a phone and the dark."""

import time

import pytest

from tests.html.chromium import Chromium, find
from tests.html.test_pages import HTML, PAGES

INDEX = HTML / "index.html"  # leads on to the first page
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
SCHEMES = ("light", "dark")

# Text whose contrast with what is behind it is below 4.5 to 1 (WCAG AA), or 3 to 1 when large.
LOW_CONTRAST = """
(() => {
  const rgba = (s) => { const v = s.match(/[\\d.]+/g).map(Number); return [...v, 1].slice(0, 4); };
  const over = (a, b) => [0, 1, 2].map((i) => a[3] * a[i] + (1 - a[3]) * b[i]).concat(1);
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    const stack = [];
    for (; e; e = e.parentElement) stack.push(rgba(getComputedStyle(e).backgroundColor));
    return stack.reverse().reduce((under, c) => over(c, under), [255, 255, 255, 1]);
  };
  const low = [];
  const texts = "article :is(p, li, h1, h2, h3, td, th, a, code, dt, figcaption, span)";
  for (const e of document.querySelectorAll(texts)) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const apart = e.closest("svg, mjx-container, .highlight, .headerlink, .sd-badge");
    if (!own || apart || !e.checkVisibility()) continue;
    const style = getComputedStyle(e), back = behind(e);
    const [a, b] = [light(over(rgba(style.color), back)), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05), large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5))
      low.push(`${e.tagName} ${ratio.toFixed(2)} ${style.color} ${e.textContent.slice(0, 40)}`);
  }
  return low;
})()
"""

# What makes the page scroll sideways. Things that scroll within themselves do not.
WIDE = """
(() => {
  const width = document.documentElement.clientWidth;
  const wide = Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) > width;
  return wide ? [...document.querySelectorAll("article *")]
    .filter((e) => e.getBoundingClientRect().right > width + 1)
    .slice(0, 5).map((e) => e.outerHTML.slice(0, 120)).concat("too wide") : [];
})()
"""

# Whether each slider takes the focus, stays in the window, and changes the figure around it.
MOVE_SLIDERS = """
[...document.querySelectorAll("article input[type=range]")].map((slider) => {
  const figure = slider.closest("figure"), before = figure.innerHTML;
  slider.focus();
  slider.value = slider.value === slider.max ? slider.min : slider.max;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  return document.activeElement === slider && figure.innerHTML !== before
    && slider.getBoundingClientRect().right <= innerWidth;
})
"""


def wait(page, script, seconds=20.0):
    """Wait until a script is true, and say whether it came to be."""
    end = time.monotonic() + seconds
    while not (found := page.run(script)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def browser():
    program = find()
    if program is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    chromium = Chromium(program)
    yield chromium
    chromium.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "path", [p for p in PAGES if p != INDEX], ids=lambda p: str(p.relative_to(HTML))
)
def test_page(browser, path, size):
    with browser.open(path.as_uri(), *SIZES[size]) as page:
        for scheme in SCHEMES:
            page.view(*SIZES[size], scheme)
            assert wait(page, f"document.documentElement.dataset.theme === '{scheme}'")
            assert page.run(LOW_CONTRAST) == []
            assert page.run(WIDE) == []
        maths = page.run("document.querySelectorAll('article .math').length")
        assert page.run("document.querySelectorAll('article mjx-container').length") >= maths
        assert page.run("document.querySelectorAll('mjx-merror, [data-mjx-error]').length") == 0
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        assert page.run(broken) == []
        assert page.requests
        beside = ("file://", "data:", "blob:")
        assert [url for url in page.requests if not url.startswith(beside)] == []
        assert page.errors == []


def test_first_page_is_found(browser):
    with browser.open(INDEX.as_uri()) as page:
        assert wait(page, "location.pathname.endsWith('book/intro.html')")


def test_search_finds(browser):
    with browser.open((HTML / "search.html").as_uri() + "?q=permutahedron") as page:
        assert wait(page, "document.querySelectorAll('#search-results li').length")
        assert page.errors == []


@pytest.mark.parametrize("size", SIZES)
def test_sliders_move_their_figure(browser, size):
    found = 0
    for path in PAGES:
        if 'type="range"' not in path.read_text(encoding="utf8"):
            continue
        with browser.open(path.as_uri(), *SIZES[size]) as page:
            moved = page.run(MOVE_SLIDERS)
            assert moved and all(moved), path
            assert page.errors == []
            found += len(moved)
    assert found, "no figure of the book can be moved"
