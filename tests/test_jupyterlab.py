"""Notebooks as people use them: run from JupyterLab's menu in a headless browser, on a copy of the checkout.

Needs Chromium and its driver (Debian: ``apt install chromium chromium-driver``) and selenium, from the extra "test".
``SSN_SCREENSHOT=figures/jupyterlab.png pytest tests/test_jupyterlab.py`` draws the README's picture again.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import nbformat
import pytest
from PIL import Image
from support import ROOT, copy_checkout, environment

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
WINDOW = (1090, 1080)
SECONDS = 600  # for one notebook, on a busy machine

absent = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no browser: apt install chromium chromium-driver")
pytestmark = [pytest.mark.slow, absent]
webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install -e '.[test]'")
pytest.importorskip("jupyterlab", reason="no JupyterLab: pip install -e '.[notebooks]'")


def until(true: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """The first true value, asked for twice a second."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.5)
    return value


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the notebooks read; they write beside it, and no tracked file is touched."""
    names = ("ssn_core", "notebooks", "profiles", "data/reference", "data/results", "figures")
    return copy_checkout(tmp_path_factory.mktemp("lab") / "supersimplenet", *names)


@pytest.fixture(scope="module")
def server(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab's address: its own port, no token, and settings of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = tmp_path_factory.mktemp("jupyter")
    news = own / "user" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    settings = {name: str(own / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    settings |= {"JUPYTERLAB_SETTINGS_DIR": str(own / "user"), "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces")}
    settings |= {"PYTHONPATH": str(checkout), "SSN_DATA_DIR": "no-data", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={checkout}"]
    command += ["--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    log = own / "log.txt"
    with open(log, "wb") as out:
        process = subprocess.Popen(command, cwd=checkout, env=environment(**settings), stdout=out, stderr=out)
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return urlopen(f"{address}/api", timeout=5).status == 200
        except OSError:
            return False

    try:
        until(answers, "JupyterLab", 120)
        yield address
    finally:
        process.terminate()  # its kernels end with it
        process.wait(30)


@pytest.fixture(scope="module")
def browser(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One window for all notebooks, in which JupyterLab has started."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = tmp_path_factory.mktemp("browser")
    for word in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", f"user-data-dir={profile}"):
        options.add_argument(f"--{word}")
    options.add_argument(f"--window-size={','.join(map(str, WINDOW))}")
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    window.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})  # a widget is current by its focus
    try:
        window.get(f"{server}/lab?reset")
        until(lambda: window.execute_script("return !!(window.jupyterapp && window.jupyterapp.shell)"), "the page", 120)
        command(window, "application:set-mode", {"mode": "single-document"})
        yield window
    finally:
        window.quit()


def command(window: Any, name: str, given: dict[str, Any] | None = None) -> None:
    """Execute a command of JupyterLab and wait for its end."""
    script = """
        const [name, given] = arguments;
        window.done = undefined;
        window.jupyterapp.restored.then(() => window.jupyterapp.commands.execute(name, given))
            .then(() => window.done = 'yes', error => window.done = String(error));"""
    window.execute_script(script, name, given or {})
    ended = until(lambda: window.execute_script("return window.done"), name)
    assert ended == "yes", f"{name}: {ended}"


def run_all(window: Any, checkout: Path, name: str) -> list[Any]:
    """Open a notebook, without the outputs it is stored with, run all cells and save; its code cells, from the disk."""
    path = next((checkout / "notebooks").glob(f"{name}_*.ipynb"))
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(book, path)
    command(window, "docmanager:open", {"path": f"notebooks/{path.name}", "factory": "Notebook"})
    kernel = "return window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status"
    until(lambda: window.execute_script(kernel) == "idle", "a kernel")
    command(window, "runmenu:run-all")
    command(window, "docmanager:save")
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def check(window: Any, code: list[Any]) -> None:
    """Every cell ran without an error, and a figure is in the page."""
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    script = "return [...document.querySelectorAll('.jp-OutputArea img')].filter(i => i.naturalWidth > 300).length"
    until(lambda: window.execute_script(script), "a figure in the page", 30)


@pytest.mark.parametrize("name", ["02", "05"])
def test_a_notebook_runs_from_the_menu_and_shows_its_figures(browser: Any, checkout: Path, name: str) -> None:
    check(browser, run_all(browser, checkout, name))


def test_the_threshold_of_notebook_08_moves_text_and_picture(browser: Any, checkout: Path) -> None:
    check(browser, run_all(browser, checkout, "08"))
    [handle] = browser.find_elements("css selector", ".jp-OutputArea .noUi-handle")

    def shown() -> tuple[str, str]:
        [text] = browser.find_elements("css selector", ".jp-OutputArea .widget-html-content")
        [picture] = browser.find_elements("css selector", ".jp-OutputArea img.widget-image")
        return text.text, picture.get_attribute("src")  # an address of its own for each picture

    before = shown()
    handle.send_keys("\ue00e")  # page up
    after = until(lambda: all(map(str.__ne__, before, now := shown())) and now, "another text and picture", 30)
    thresholds = [float(re.search(r"threshold ([\d.]+)", text)[1]) for text, _ in (before, after)]
    assert thresholds[0] < thresholds[1]
    if target := os.environ.get("SSN_SCREENSHOT"):
        screenshot(browser, ROOT / target)


def screenshot(window: Any, path: Path) -> None:
    """The widgets at the top of the page, nothing beside them, in a palette."""
    command(window, "application:toggle-left-area")
    time.sleep(1)
    cell = "document.querySelector('.jp-OutputArea .noUi-handle').closest('.jp-Cell')"
    window.execute_script(f"{cell}.scrollIntoView()")
    time.sleep(2)
    png = io.BytesIO(window.get_screenshot_as_png())
    Image.open(png).convert("RGB").quantize(256).save(path, optimize=True)
