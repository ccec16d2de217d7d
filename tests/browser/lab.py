"""JupyterLab on a copy of the checkout, in a home of its own, as somebody who reads the course uses it."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("course_lib", "notebooks", "docs", "benchmarks")
SECONDS_TO_START = 120
NOTEBOOK = "window.jupyterapp.shell.currentWidget"  # the tab in front
PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Start JupyterLab below an empty folder: its address, its token, the cache of the course. Ended on the way out."""
    course, cache = folder / "course", folder / "cache"
    for part in PARTS:
        shutil.copytree(ROOT / part, course / part, ignore=shutil.ignore_patterns("__pycache__", "runs", ".ipynb_checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", course)
    own = {"HOME": folder, "PYTHONPATH": course, "COURSE_CACHE": cache, "IPYTHONDIR": folder / "ipython"}
    own |= {f"JUPYTER_{kind}_DIR": folder / kind.lower() for kind in ("CONFIG", "DATA", "RUNTIME")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "COURSE"))}
    settings = folder / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    no_news = {"fetchNews": "false", "checkForUpdates": False}  # it would ask, and look for them on the Internet
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(no_news), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, token = f"http://127.0.0.1:{port}", secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--LabApp.expose_app_in_browser=True",
               "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
               f"--ServerApp.root_dir={course}", f"--IdentityProvider.token={token}"]  # fmt: skip
    with (folder / "lab.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, cwd=course, env=inherited | {name: str(value) for name, value in own.items()},
                                  stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip
    try:
        _wait(server, f"{address}/api/status?token={token}", folder / "lab.log")
        yield address, token, cache
    finally:
        server.send_signal(signal.SIGTERM)  # it ends its kernels
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server: subprocess.Popen, address: str, log: Path) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start. It said:\n{log.read_text(encoding='utf-8')[-3000:]}")


class Lab:
    """What a reader does in JupyterLab. Clicks and keys go to the page; what notebooks hold is read from JupyterLab's model,
    which has all cells, also those that are not drawn."""

    def __init__(self, watched, address: str, token: str, cache: Path) -> None:
        self.watched, self.page, self.address, self.token, self.cache = watched, watched.page, address, token, cache
        watched.home = address

    def open(self, notebook: str) -> None:
        """Open a notebook by its address."""
        self.page.goto(f"{self.address}/lab/tree/notebooks/{notebook}?token={self.token}")
        self.ready(notebook)

    def ready(self, notebook: str) -> None:
        """Wait until a notebook is in front and its kernel waits for work."""
        self.page.locator(f"{PANEL} .jp-Notebook").wait_for()
        self.page.wait_for_function(
            f"name => {NOTEBOOK}?.context?.path.endsWith(name) && {NOTEBOOK}.sessionContext.session?.kernel?.status === 'idle'",
            arg=notebook,
        )

    def menu(self, top: str, *path: str) -> None:
        """Choose from the menus at the top; the path goes through the menus that open."""
        self.page.locator(".lm-MenuBar-itemLabel").get_by_text(top, exact=True).click()
        for name in path:
            self.page.locator(".lm-Menu-itemLabel").get_by_text(name, exact=True).click()

    def theme(self, name: str) -> None:
        """Turn to a theme, 'Light' or 'Dark', and wait until it is drawn."""
        wanted = f"JupyterLab {name}"
        if self.page.locator("body").get_attribute("data-jp-theme-name") != wanted:
            self.menu("Settings", "Theme", wanted)
            self.page.locator(f'body[data-jp-theme-name="{wanted}"]').wait_for(state="attached")

    def cells(self) -> list[dict]:
        """The cells of the notebook in front, as they would be saved; `source` is a text."""
        cells = self.page.evaluate(f"() => {NOTEBOOK}.content.model.toJSON().cells")
        return [cell | {"source": "".join(cell["source"])} for cell in cells]

    def place(self, text: str) -> int:
        """The place of the one code cell that has this text."""
        (place,) = [i for i, cell in enumerate(self.cells()) if cell["cell_type"] == "code" and text in cell["source"]]
        return place

    def cell(self, place: int):
        """A cell on the page, scrolled to."""
        cell = self.page.locator(f'{PANEL} .jp-Cell[data-windowed-list-index="{place}"]')
        cell.scroll_into_view_if_needed()
        return cell

    def run_all(self, seconds: float) -> None:
        """Run the notebook in front from top to bottom and wait for its end; `faults` says what went wrong."""
        last = f"{NOTEBOOK}.content.widgets.at(-1).model"
        self.menu("Run", "Run All Cells")
        self.page.wait_for_function(f"() => {last}.executionCount === null")
        self._idle(seconds)

    def type_and_run(self, place: int, source: str) -> str:
        """Replace the source of a cell by typing and run it; returns the text that it shows."""
        editor = self.cell(place).locator(".cm-content")
        editor.click()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.insert_text(source)
        assert self.cells()[place]["source"] == source
        before = self.cells()[place]["execution_count"]
        self.page.keyboard.press("Shift+Enter")
        self.page.wait_for_function(
            f"([place, before]) => ![null, before].includes({NOTEBOOK}.content.widgets[place].model.executionCount)",
            arg=[place, before],
        )
        self._idle(60)
        return self.cell(place).locator(".jp-OutputArea").inner_text()

    def _idle(self, seconds: float) -> None:
        """Wait until no cell of the notebook in front runs or waits, nor its kernel."""
        self.page.wait_for_function(
            f"() => {NOTEBOOK}.content.widgets.every(cell => cell.model.executionState !== 'running')"
            f" && {NOTEBOOK}.sessionContext.session.kernel.status === 'idle'",
            polling=250, timeout=1000 * seconds,
        )

    def faults(self) -> list[str]:
        """Cells of the notebook in front that were not run, raised an error, or wrote to stderr."""
        found = []
        for place, cell in enumerate(self.cells()):
            if cell["cell_type"] == "code" and cell["source"].strip():
                if cell["execution_count"] is None:
                    found.append(f"cell {place} was not run")
                for output in cell["outputs"]:
                    if output["output_type"] == "error":
                        found.append(f"cell {place}: {output['ename']}: {output['evalue']}")
                    elif output.get("name") == "stderr":
                        found.append(f"cell {place}, stderr: {''.join(output['text'])}")
        return found

    def outputs(self):
        """What the cells of the notebook in front show."""
        return self.page.locator(f"{PANEL} .jp-Cell-outputWrapper")
