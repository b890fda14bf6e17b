"""A browser without a window, and what pages are asked in it."""

import base64
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def start_browser(folder: Path) -> Any:
    """Start Chromium with an empty profile in a folder; skip the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    driver = shutil.which("chromedriver")
    if BROWSER is None or driver is None:
        pytest.skip("needs chromium and chromedriver on the path; apt has both")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = f"--user-data-dir={folder}"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", profile):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def show(
    browser: Any,
    path: Path,
    *,
    width: int,
    scheme: str = "light",
    motion: str = "reduce",
    fragment: str = "",
) -> None:
    """Open a file in a window of this width, as one whose visitor prefers this scheme and this motion."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    browser.get("about:blank")  # else a new fragment of the same file would load nothing
    browser.get(path.as_uri() + fragment)


def overflow(browser: Any) -> int:
    """By how many pixels the page is wider than its window."""
    return int(
        browser.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
    )


def fetched(browser: Any) -> set[str]:
    """The schemes of what the page has asked for besides itself."""
    return set(
        browser.execute_script(
            "return performance.getEntriesByType('resource').map(e => e.name.split(':')[0])"
        )
    )


def floats_of(text: str) -> np.ndarray:
    """The float32 numbers that a page sends in base64."""
    return np.frombuffer(base64.b64decode(text), "<f4")


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it, of "rgb(r, g, b)"."""
    shares = [int(number) / 255 for number in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, other: str) -> float:
    """How much two colours stand out from each other, 1 to 21; WCAG 2 asks text of normal size for 4.5."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)
