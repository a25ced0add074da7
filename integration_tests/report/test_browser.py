"""The page in Chromium, opened from disk."""

import json
import shutil

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no Chromium with its driver: apt-get install chromium chromium-driver",
)

OVERFLOWING = """
const inBox = (e) => e.closest(".scroll, .run ol, svg, details:not([open])");
return [...document.querySelectorAll("body *")]
  .filter((e) => !inBox(e) || e.matches(".scroll, .run ol, svg"))
  .filter((e) => !e.closest("details:not([open])") && e.getBoundingClientRect().width > 0)
  .filter((e) => {
    const box = e.getBoundingClientRect();
    return box.right > document.documentElement.clientWidth + 0.5 || box.left < -0.5;
  })
  .map((e) => e.outerHTML.slice(0, 120));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def show(browser, file, scheme, width):
    """Opens a file; returns the addresses that were asked for."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get_log("performance")
    browser.get(file.as_uri())
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        # Of the browser's own new tab.
        and not message["params"]["request"]["url"].startswith("chrome:")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_opens_from_disk_without_network_errors_or_overflow(browser, compared, scheme, width):
    file = compared / "report.html"
    asked = show(browser, file, scheme, width)
    assert {address for address in asked if not address.startswith("data:")} == {file.as_uri()}
    assert browser.get_log("browser") == []
    assert browser.execute_script(OVERFLOWING) == []
    assert browser.execute_script(
        "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    images = "return [...document.images].map((i) => i.naturalWidth)"
    assert min(browser.execute_script(images)) > 0
    shown = "return [...document.querySelectorAll('.plot')].map((p) => p.clientWidth > 0)"
    visible = browser.execute_script(shown)
    assert sum(visible) * 2 == len(visible)


@pytest.mark.parametrize(("scheme", "other"), [("light", "dark"), ("dark", "light")])
def test_the_button_takes_the_other_scheme(browser, compared, scheme, other):
    ground = "return getComputedStyle(document.body).backgroundColor"
    show(browser, compared / "report.html", other, 1280)
    expected = browser.execute_script(ground)
    show(browser, compared / "report.html", scheme, 1280)
    before = browser.execute_script(ground)
    browser.find_element("id", "theme").click()
    assert browser.execute_script(ground) == expected
    browser.find_element("id", "theme").click()
    assert browser.execute_script(ground) == before != expected


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_of_plots_are_in_colours_of_the_page(browser, compared, scheme):
    """Black text, which is what matplotlib writes unless told otherwise, is unseen in the dark."""
    show(browser, compared / "report.html", scheme, 1280)
    colours = browser.execute_script(
        "return [...document.querySelectorAll('.wide .plot text')]"
        ".map((t) => [t.textContent, getComputedStyle(t).fill])"
    )
    palette = browser.execute_script(
        "const style = getComputedStyle(document.documentElement);"
        "return ['--ink', '--muted'].map((name) => {"
        "  const probe = document.createElement('i');"
        "  probe.style.color = style.getPropertyValue(name);"
        "  document.body.append(probe);"
        "  return getComputedStyle(probe).color; });"
    )
    assert colours
    assert [text for text, colour in colours if colour not in palette] == []
