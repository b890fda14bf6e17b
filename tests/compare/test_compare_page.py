"""The page of a comparison in a real browser, at a narrow and at a wide window, light and dark."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lstm_jax.compare.report import write_report
from tests.helpers.comparison_example import PARTS, example_results, with_troubles

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs chromium and chromedriver on the path; apt has both"
)

WIDTHS = (360, 1600)
PICTURES = 4
# Contrast that WCAG 2 asks for in text of normal size.
CONTRAST = 4.5


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with everything in it, and an earlier one beside it."""
    folder = tmp_path_factory.mktemp("report")
    write_report(with_troubles(example_results()), folder, against=example_results(seed=1))
    return folder / "report.html"


def look(browser: Any, page: Path, *, width: int, scheme: str = "light") -> None:
    """Open a page in a window of a width. (A window itself does not become narrower than 500 pixels.)"""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())
    assert browser.execute_script("return window.innerWidth") == width


def requests(browser: Any) -> list[str]:
    """The addresses of all that the browser asked for since this was last called."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def test_nothing_is_fetched_and_nothing_goes_wrong(browser: Any, page: Path) -> None:
    requests(browser)  # forget what was before
    look(browser, page, width=1600)
    asked = requests(browser)
    assert asked[0] == page.as_uri()
    assert {address.split(":")[0] for address in asked[1:]} <= {"data"}
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [address for address in fetched if not address.startswith("data:")] == []
    assert browser.get_log("browser") == []


def test_a_page_that_fetches_would_be_noticed(browser: Any, page: Path, tmp_path: Path) -> None:
    # Nobody listens there; and the page's own policy is what stops it, so that nobody is asked either.
    text = page.read_text().replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>')
    (tmp_path / "report.html").write_text(text)
    look(browser, tmp_path / "report.html", width=1600)
    (entry,) = browser.get_log("browser")
    assert "Content Security Policy" in entry["message"]


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_and_pictures_are_there_and_fit(browser: Any, page: Path, width: int) -> None:
    look(browser, page, width=width)
    seen = browser.execute_script(
        """
        const root = document.documentElement;
        const right = e => e.getBoundingClientRect().right;
        return {
          overflow: root.scrollWidth - root.clientWidth,
          headings: [...document.querySelectorAll('h2')].map(e => e.textContent),
          outside: [...document.querySelectorAll('main *:not(.scroll *)')]
            .filter(e => right(e) > root.clientWidth + 1).map(e => e.outerHTML.slice(0, 80)),
          tables: [...document.querySelectorAll('.scroll > table')].map(e => e.rows.length),
          all: document.querySelectorAll('table').length,
          pictures: [...document.querySelectorAll('.scroll > img')].map(
            e => [e.complete && e.naturalWidth, e.clientWidth, e.alt]),
        };
        """
    )
    assert seen["overflow"] == 0
    assert seen["outside"] == []
    # Speed, parity, accuracy, three axes, frameworks, against.
    assert len(seen["tables"]) == seen["all"] == 8
    assert min(seen["tables"]) > 10
    assert len(seen["pictures"]) == PICTURES
    for natural, shown, words in seen["pictures"]:
        assert natural > 500
        assert shown >= 0.7 * natural  # small windows scroll; they do not make the letters tiny
        assert "lstm_jax-native" in words
    assert seen["headings"][:3] == ["What was compared, and how", "Findings", "Speed"]


def test_a_wide_window_shows_the_speed_table_without_scrolling(browser: Any, page: Path) -> None:
    look(browser, page, width=1600)
    hidden = "const e = document.querySelector('table').parentElement; return e.scrollWidth - e.clientWidth"
    assert browser.execute_script(hidden) == 0
    look(browser, page, width=360)
    assert browser.execute_script(hidden) > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Any, page: Path, scheme: str) -> None:
    look(browser, page, width=1600, scheme=scheme)
    pairs = browser.execute_script(
        """
        const ground = e => {
          const found = getComputedStyle(e).backgroundColor;
          return found === 'rgba(0, 0, 0, 0)' && e.parentElement ? ground(e.parentElement) : found;
        };
        const names = ['h1', 'p', '.quiet', 'figcaption', 'thead th', 'td', 'tr:nth-child(even) td', 'code'];
        return names.map(name => {
          const e = document.querySelector(name);
          return [name, getComputedStyle(e).color, ground(e)];
        });
        """
    )
    for name, ink, ground in pairs:
        assert contrast(ink, ground) >= CONTRAST, name
    dark = luminance(pairs[0][2]) < 0.5
    assert dark == (scheme == "dark")


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it, of "rgb(r, g, b)"."""
    shares = [int(number) / 255 for number in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_a_short_comparison_makes_a_whole_page(browser: Any, tmp_path: Path) -> None:
    write_report(PARTS["quick"], tmp_path, against=None)
    look(browser, tmp_path / "report.html", width=360)
    text = browser.execute_script("return document.body.innerText")
    assert text.count("Not measured in this comparison.") == 2
    assert browser.execute_script("return document.images.length") == 2
    overflow = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
    assert browser.execute_script(overflow) == 0
    assert browser.get_log("browser") == []
