"""Take the pictures of the page and of the report that README and docs show.

python docs/screenshots.py runs/quickstart --question "what color is the circle?"

It needs Debian's chromium and chromium-driver.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"


@contextmanager
def serve(run: Path) -> Iterator[str]:
    """The address of a server of the run."""
    command = [sys.executable, "-u", "-m", "app", "serve", str(run), "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for line in server.stdout or ():
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0]
                return
        raise SystemExit("The server did not start.")
    finally:
        server.terminate()
        server.wait(60)


@contextmanager
def browser(width: int, height: int) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    chrome = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        yield chrome
    finally:
        chrome.quit()


def photograph_page(chrome: webdriver.Chrome, address: str, example: int, question: str, word: str) -> None:
    """Ask about one of the page's examples, and show the layer of a word, or of the answer."""

    def shown(selector: str):
        return lambda c: next((e for e in c.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()), None)

    def press(selector: str, shows, index: int = 0) -> None:
        def try_once(c):
            c.find_elements(By.CSS_SELECTOR, selector)[index].click()
            return WebDriverWait(c, 8).until(shows)

        WebDriverWait(chrome, 60, ignored_exceptions=[TimeoutException, IndexError]).until(try_once)

    chrome.get(address)
    text = WebDriverWait(chrome, 60).until(shown("#text textarea"))
    press("#examples button img", lambda _: text.get_attribute("value"), example)
    text.clear()
    text.send_keys(question)
    press("#ask", shown(".answer .best"))
    WebDriverWait(chrome, 60).until(shown(".evidence .word"))
    words = chrome.find_elements(By.CSS_SELECTOR, ".evidence .word")
    next(one for one in words if one.text == word or one.text.split()[0] == word).click()
    time.sleep(1)  # for the page's transitions to end
    chrome.execute_script("window.scrollTo(0, 0)")
    save(chrome, "page.png")


def photograph_report(chrome: webdriver.Chrome, report: Path) -> None:
    chrome.get(report.resolve().as_uri())
    save(chrome, "report.png")


def save(chrome: webdriver.Chrome, name: str) -> None:
    path = IMAGES / name
    chrome.save_screenshot(str(path))
    Image.open(path).convert("RGB").save(path, optimize=True)
    print(f"wrote {path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with its evaluation of the test rows")
    parser.add_argument("--example", type=int, default=0, help="which of the page's examples, from 0 (default: 0)")
    parser.add_argument("--question", default="what color is the circle?")
    parser.add_argument("--word", default="the answer", help="the word whose map is shown (default: the answer)")
    args = parser.parse_args(argv)
    with browser(1280, 800) as chrome:
        photograph_report(chrome, args.run / "evaluation" / "test" / "report.html")
    with browser(1280, 1400) as chrome, serve(args.run) as address:
        photograph_page(chrome, address, args.example, args.question, args.word)


if __name__ == "__main__":
    main(sys.argv[1:])
