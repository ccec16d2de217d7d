"""The built site (`make site`), opened from its folder: first page, a page of the course, search, a page of the reference."""

import json
from pathlib import Path

import pytest

SITE = Path(__file__).resolve().parents[2] / "build" / "site"
pytestmark = pytest.mark.browser
# the theme's own colours of code and of the signs that link to a heading; outputs of notebooks, which test_lab.py looks at
APART = ".headerlink, .highlight, .jp-RenderedHTML"
each_theme = pytest.mark.parametrize("theme", ["light", "dark"])


@pytest.fixture(scope="module")
def site(watched):
    """The tab in which the site is read."""
    if not (SITE / "index.html").is_file():
        pytest.skip("the site is not built: make site")
    watched.home = f"{SITE.as_uri()}/"
    return watched


def locations() -> list[str]:
    """All pages and their headings, as the search knows them."""
    entries = json.loads((SITE / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    return [entry["location"] for entry in entries]


def opened(site, location: str, theme: str = "light"):
    """The text of a page, which has a heading, words, and all of its pictures."""
    site.page.goto(site.home + location)
    scheme = {"light": "default", "dark": "slate"}[theme]
    if site.page.locator("body").get_attribute("data-md-color-scheme") != scheme:
        site.page.locator('label[for^="__palette"]').locator("visible=true").click()
    site.page.locator(f'body[data-md-color-scheme="{scheme}"]').wait_for(state="attached")
    return whole(site.page)


def whole(page):
    article = page.locator("article")
    assert article.locator("h1").first.inner_text().strip() and len(article.inner_text()) > 500
    article.evaluate("part => Promise.all([...part.querySelectorAll('img')].map(i => (i.loading = 'eager', i.decode())))")
    return article


@each_theme
def test_the_first_page_leads_into_the_course(site, theme):
    article = opened(site, "index.html", theme)
    assert site.unreadable(article, APART) == []
    site.picture(f"{theme}-start")
    article.locator('a[href*="01_domain_gap"]').first.click()
    site.page.wait_for_url("**/01_domain_gap*")
    whole(site.page)


@each_theme
def test_a_page_of_the_course_has_its_pictures_and_formulas(site, theme):
    (location,) = {place.partition("#")[0] for place in locations() if place.startswith("notebooks/01_domain_gap")}
    article = opened(site, location, theme)
    assert article.locator("img").count() >= 15
    assert article.locator("math, mjx-container").count() >= 15 and r"\frac" not in article.inner_text()
    assert site.unreadable(article, APART) == []
    site.picture(f"{theme}-course")
    for what, part in (("formula", article.locator("math, mjx-container").nth(8)), ("figure", article.locator("img").nth(4))):
        part.scroll_into_view_if_needed()
        site.picture(f"{theme}-{what}")


def test_the_search_finds_a_word(site):
    opened(site, "index.html")
    site.page.locator(".md-search__input").fill("pseudo-labels")
    found = site.page.locator(".md-search-result__item a").first
    found.wait_for()
    site.picture("search")
    found.click()
    site.page.wait_for_url(lambda address: "index.html" not in address.removeprefix(site.home).partition("#")[0])
    assert "pseudo" in whole(site.page).inner_text().lower()


@each_theme
def test_a_page_of_the_reference_says_what_a_function_does(site, theme):
    (location,) = [place for place in locations() if place.endswith("#course_lib.losses.segmentation.cross_entropy")]
    article = opened(site, location, theme)
    assert article.locator(f'[id="{location.partition("#")[2]}"]').is_visible()
    assert "cross_entropy" in article.inner_text() and "ValueError" in article.inner_text()
    assert site.unreadable(article, APART) == []
    site.picture(f"{theme}-reference")
