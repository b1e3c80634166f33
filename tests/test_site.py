"""The built site in a real browser: pages load, search finds, code copies, links and pictures are there.

`make docs` builds it first, which runs the examples of the gallery with warnings as errors; what they left is tested
here. Without the site, selenium or chromium the tests are skipped and say so.
"""

import functools
import http.server
import os
import re
import shutil
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

SITE = Path(__file__).parents[1] / "docs" / "_build" / "html"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if "_static" not in path.parts)
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
SHOWN = [page for page in PAGES if not page.endswith(("genindex.html", "search.html", "sg_execution_times.html"))]
OPTIONS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = pytest.mark.skipif(not PAGES, reason="docs/_build/html is not there: `make docs` builds it")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address():
    handler = functools.partial(_Quiet, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: it is in the extra docs")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in [*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    out = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield out
    out.quit()


@pytest.mark.parametrize("page", SHOWN)
def test_page_loads_with_its_pictures_and_fits_a_phone(browser, address, page):
    browser.set_window_size(1280, 900)
    browser.get(address + page)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    missing = "return [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    assert browser.execute_script(missing) == []
    browser.set_window_size(500, 800)  # the narrowest window that chromium opens
    width, room = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= room


def test_search_finds_an_api_name(browser, address):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address + "search.html?q=TorchGridSearchCV")
    found = "return [...document.querySelectorAll('#search-results a')].map(a => a.href)"
    links = WebDriverWait(browser, 20).until(lambda b: b.execute_script(found))
    assert any("torchlogreg.TorchGridSearchCV.html" in link for link in links)


def test_code_copies(browser, address):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    browser.set_window_size(1280, 900)
    browser.get(address + "getting-started.html")
    browser.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    button = WebDriverWait(browser, 20).until(
        lambda b: b.execute_script("return document.querySelectorAll('button.copybtn')[1]")
    )
    ActionChains(browser).scroll_to_element(button).move_to_element(button).click(button).perform()
    copied = WebDriverWait(browser, 20).until(
        lambda b: b.execute_async_script("navigator.clipboard.readText().then(arguments[0], () => arguments[0](''))")
    )
    assert copied.startswith("from sklearn.datasets import load_breast_cancer\n")


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.targets, self.names = [], set()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.names.add(attrs.get("id"))
        self.targets += [attrs[key] for key in ("href", "src") if attrs.get(key)]


def test_no_internal_link_is_broken():
    parsed = {}
    for page in PAGES:
        parsed[page] = _Links()
        parsed[page].feed((SITE / page).read_text(encoding="utf-8"))
    broken = []
    for page, links in parsed.items():
        for target in links.targets:
            path, anchor = urldefrag(target)
            parts = urlsplit(path)
            if parts.scheme or parts.netloc:
                continue
            file = (SITE / page).parent / unquote(parts.path) if parts.path else SITE / page
            if not file.exists():
                broken.append((page, target))
                continue
            name = file.resolve().relative_to(SITE.resolve()).as_posix()
            if anchor and name in parsed and unquote(anchor) not in parsed[name].names:
                broken.append((page, target))
    assert broken == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_ran_and_has_a_picture_of_its_own(path):
    images = SITE / "_images"
    assert (images / f"sphx_glr_{path.stem}_001.png").stat().st_size > 5_000
    thumbnails = {other: (images / f"sphx_glr_{other.stem}_thumb.png").read_bytes() for other in EXAMPLES}
    assert list(thumbnails.values()).count(thumbnails[path]) == 1


def test_the_quickstart_saves_its_picture_and_says_what_it_leaves_out():
    output = EXAMPLES[0].parent / "output" / "quickstart.png"
    assert output.stat().st_size > 10_000
    printed = re.search(
        "^MNIST: skipped", (SITE / "gallery" / "quickstart.html").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert (printed is not None) == ("TORCHLOGREG_DATA" not in os.environ)
