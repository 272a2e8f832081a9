"""A real JupyterLab on loopback, a real browser, and what a person does with them.

The server has its configuration, data, runtime and workspaces in a folder of its own and a random
token; notebooks are copied below a root of their own, so that nothing is written into nbs/.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Error, Locator, Page, Playwright

ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "runs" / "shots"
WINDOW = {"width": 1280, "height": 1000}
ARGS = """--no-sandbox --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --use-gl=angle
--use-angle=swiftshader --enable-unsafe-swiftshader""".split()
SETTINGS = {
    "apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "notebook-extension:tracker": {"windowingMode": "none", "kernelShutdown": True},
    "docmanager-extension:plugin": {"autosave": False},
    "apputils-extension:sessionDialogs": {"skipKernelRestartDialog": True},
}


def browser_file(playwright: Playwright) -> Path | None:
    "The system's browser, else Playwright's own download, else None"
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((p for p in map(shutil.which, names) if p), playwright.chromium.executable_path)
    return Path(found) if Path(found).is_file() else None


def launch(playwright: Playwright, file: Path) -> Browser:
    return playwright.chromium.launch(executable_path=str(file), args=ARGS)


def clean_copy(root: Path, notebook: str) -> None:
    "A checkout that holds its settings, its data and one notebook without outputs, and no run"
    (root / "runs").mkdir(parents=True)
    shutil.copy(ROOT / "settings.ini", root)
    (root / "data").symlink_to(ROOT / "data", target_is_directory=True)
    content = json.loads((ROOT / "nbs" / notebook).read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    target = root / "nbs" / notebook
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps(content), encoding="utf-8")


@dataclass(frozen=True)
class Lab:
    "A server under way"

    address: str
    token: str
    root: Path
    process: subprocess.Popen

    def page(self, notebook: str) -> str:
        return f"{self.address}/lab/workspaces/test/tree/{notebook}?reset&token={self.token}"


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _environment(place: Path) -> dict[str, str]:
    folders = dict(
        JUPYTER_CONFIG_DIR="config",
        JUPYTER_DATA_DIR="data",
        JUPYTER_RUNTIME_DIR="runtime",
        JUPYTERLAB_SETTINGS_DIR="settings",
        JUPYTERLAB_WORKSPACES_DIR="workspaces",
        IPYTHONDIR="ipython",
    )
    for plugin, values in SETTINGS.items():
        package, _, name = plugin.partition(":")
        file = place / "settings" / "@jupyterlab" / package / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    unwanted = ("IN_TEST", "PYTEST_CURRENT_TEST", "MPLBACKEND")
    env = {k: v for k, v in os.environ.items() if k not in unwanted}
    env |= {name: str(place / folder) for name, folder in folders.items()}
    return env | {"JUPYTER_PREFER_ENV_PATH": "1", "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def serve(root: Path, place: Path, **env: str) -> Iterator[Lab]:
    "JupyterLab for one folder, its own files in another; its kernels end with it"
    token, port, log = secrets.token_hex(16), _free_port(), place / "server.log"
    command = f"""-m jupyterlab --no-browser --ip=127.0.0.1 --port={port} --allow-root
    --ServerApp.port_retries=0 --ServerApp.root_dir={root} --IdentityProvider.token={token}
    --LabApp.expose_app_in_browser=True --LabApp.news_url= --ServerApp.log_level=WARN
    --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate""".split()
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, *command],
            env=_environment(place) | env,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    made = Lab(f"http://127.0.0.1:{port}", token, root, process)
    try:
        _wait_for_server(made, log)
        yield made
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_for_server(server: Lab, log: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while True:
        if server.process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"JupyterLab did not start: {log.read_text()[-2000:]}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{server.address}/api/status?token={server.token}", timeout=5)
            return
        time.sleep(0.1)


READY = """() => {
  const w = window.jupyterapp?.shell?.currentWidget;
  return Boolean(w?.context?.isReady && w?.sessionContext?.isReady && w.sessionContext.session);
}"""
RUN_ALL = """async () => {
  const app = window.jupyterapp, w = app.shell.currentWidget;
  await w.context.ready; await w.sessionContext.ready; await w.revealed;
  const done = await app.commands.execute("notebook:run-all-cells");
  const errors = [];
  for (const cell of w.content.widgets)
    if (cell.model.type === "code")
      for (const o of cell.model.sharedModel.toJSON().outputs || [])
        if (o.output_type === "error") errors.push(`${o.ename}: ${o.evalue}`);
  return { done, errors, cells: w.content.widgets.length };
}"""
CONTROLS = """() => {
  const kinds = {
    "widget-slider": "slider", "widget-dropdown": "dropdown", "widget-checkbox": "checkbox",
    "jupyter-button": "button", "widget-select-multiple": "several", "widget-select": "list",
    "widget-play": "play", "widget-text": "text",
  };
  const found = {};
  for (const el of document.querySelectorAll(".s3-panel [class*='s3-']")) {
    const name = [...el.classList].find(c => c.startsWith("s3-"));
    const kind = Object.keys(kinds).find(k => el.classList.contains(k));
    if (!name || el.offsetParent === null) continue;
    if (kind) found[name.slice(3)] = kinds[kind];
    else if (el.querySelector(":scope > .s3-pick")) found[name.slice(3)] = "pick";
  }
  return found;
}"""
LABELS = """() => {
  const bare = [];
  for (const el of document.querySelectorAll(".s3-panel select, .s3-panel input, .s3-panel button, "
      + ".s3-panel .noUi-handle, .s3-panel .s3-pick")) {
    const own = el.getAttribute("aria-label") || el.getAttribute("aria-labelledby") || el.title
      || el.innerText || (el.labels && [...el.labels].map(l => l.innerText).join(""));
    const near = el.closest(".jupyter-widgets")?.querySelector("label, .widget-label")?.innerText;
    if (!(own || near || "").trim()) bare.push(el.outerHTML.slice(0, 120));
  }
  return bare;
}"""
FOCUSED = """() => {
  for (let el = document.activeElement; el; el = el.parentElement) {
    const name = [...el.classList].find(c => c.startsWith("s3-") && c !== "s3-pick");
    if (name) return name.slice(3);
  }
  return "";
}"""
CONTRAST = """least => {
  const numbers = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = c => {
    const linear = v => v <= 0.04 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = c.map(v => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = el => {
    const box = el.getBoundingClientRect();
    const under = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    const shape = under.find(e => e !== el && e.closest("svg") && e.tagName !== "svg");
    const fill = shape && numbers(getComputedStyle(shape).fill);
    if (fill && fill.length >= 3 && fill[3] !== 0) return fill.slice(0, 3);
    for (; el; el = el.parentElement) {
      const c = numbers(getComputedStyle(el).backgroundColor);
      if (c.length === 3 || c[3] > 0.5) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const faint = [];
  const walk = document.createTreeWalker(document.querySelector(".s3-panel"), NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const el = node.parentElement, style = getComputedStyle(el);
    const skipped = "style, option, .js-plotly-plot, button[disabled]";
    if (!node.data.trim() || el.closest(skipped) || !el.getClientRects().length) continue;
    const svg = el.closest("svg"), ink = numbers(svg ? style.fill : style.color);
    const a = light(ink.slice(0, 3)), b = light(behind(el));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least) faint.push(`${node.data.trim().slice(0, 40)}: ${ratio.toFixed(1)}`);
  }
  return faint;
}"""
LOOKS = """async names => {
  const bytes = async image => {
    for (let tries = 0; tries < 40; tries++) {
      try {
        const read = new Uint8Array(await (await fetch(image().src)).arrayBuffer());
        return [...new Uint8Array(await crypto.subtle.digest("SHA-256", read))].join();
      } catch { await new Promise(done => setTimeout(done, 25)); }  // just being replaced
    }
    return "no picture";
  };
  const look = async el => {
    const image = () => el.tagName === "IMG" ? el : el.querySelector("img");
    if (image()) return bytes(image);
    const plot = el.querySelector(".js-plotly-plot");
    return plot ? JSON.stringify([plot.data[0].marker.color, plot.data[0].x]) : el.innerHTML;
  };
  const found = {};
  for (const name of names) {
    const all = [...document.querySelectorAll(".s3-panel .s3-" + name)];
    found[name] = (await Promise.all(all.map(look))).join("|");
  }
  return found;
}"""


@dataclass
class Desk:
    "One notebook, open in the browser"

    name: str  # of the notebook
    root: Path  # of its copy of the checkout
    page: Page
    faults: list[str] = field(default_factory=list)

    def run_all(self) -> None:
        "Every cell; none may end in an error"
        told = self.page.evaluate(RUN_ALL)
        assert told["done"] is not False and not told["errors"], told
        try:
            self.page.locator(".s3-panel").first.wait_for(timeout=60_000)
        except Error as error:
            raise AssertionError(f"no panel; the console: {self.faults[-5:]}") from error

    def restart_kernel(self) -> None:
        "Without the dialog; done when the new kernel has told which widgets it knows"
        self.page.evaluate(
            "async () => { const s = window.jupyterapp.shell.currentWidget.sessionContext;"
            " const kernel = s.session.kernel; await kernel.restart(); await s.ready;"
            " await kernel.info; await kernel.requestCommInfo({target_name: 'jupyter.widget'}); }"
        )

    def theme(self, dark: bool) -> None:
        name = "JupyterLab Dark" if dark else "JupyterLab Light"
        call = "n => window.jupyterapp.commands.execute('apputils:change-theme', {theme: n})"
        self.page.evaluate(call, name)
        wanted = "false" if dark else "true"
        self.page.locator(f"body[data-jp-theme-light='{wanted}']").wait_for(state="attached")

    def controls(self) -> dict[str, str]:
        "Name -> kind of every control of the panel"
        return self.page.evaluate(CONTROLS)

    def find(self, name: str) -> Locator:
        return self.page.locator(f".s3-panel .s3-{name}").first

    def looks(self, names: list[str]) -> dict[str, str]:
        "Fingerprints of views: a picture's bytes, else the text and drawing inside"
        return self.page.evaluate(LOOKS, names)

    def text(self, name: str) -> str:
        return self.find(name).inner_text()

    def press(self, name: str, inside: str, keys: str) -> None:
        "Put the focus on a control, as soon as it can be used, and press keys"
        self.until(lambda: not self.disabled(name), f"{name} can be used")
        place = self.find(name)
        (place.locator(inside).first if inside else place).focus()
        for key in keys.split():
            self.page.keyboard.press(key)

    def tab_through(self, count: int) -> set[str]:
        "Names of the controls that Tab goes through, starting at the first of the panel"
        first = self.page.locator(".s3-panel :is(select, input, button, [tabindex='0'])").first
        first.focus()
        seen = set()
        for _ in range(3 * count + 10):
            seen.add(self.page.evaluate(FOCUSED))
            self.page.keyboard.press("Tab")
        return seen

    def unchanged(
        self, before: dict[str, str], views: tuple[str, ...], seconds: float = 40
    ) -> list[str]:
        "Wait until all views look different; those that never do"
        end = time.monotonic() + seconds
        while True:
            now = self.looks(list(views))
            same = [v for v in views if now[v] == before[v]]
            if not same or time.monotonic() > end:
                return same
            self.page.wait_for_timeout(40)

    def count_changes(self, views: list[str], least: int, seconds: float) -> dict[str, int]:
        "Wait until views that move by themselves have changed often enough; those that have not"
        seen = {view: [look] for view, look in self.looks(views).items()}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for view, look in self.looks(views).items():
                seen[view] += [look] * (look != seen[view][-1])
            if all(len(looks) > least for looks in seen.values()):
                return {}
            self.page.wait_for_timeout(200)
        return {view: len(looks) - 1 for view, looks in seen.items() if len(looks) <= least}

    def disabled(self, name: str) -> bool:
        "Whether a control cannot be used now"
        one = "e => e.disabled || Boolean(e.querySelector(':is(input, select, button):disabled'))"
        return self.find(name).evaluate(one)

    def low_contrast(self, least: float = 3.0) -> list[str]:
        "Texts of the panel that stand out too little from what is behind them"
        return self.page.evaluate(CONTRAST, least)

    def comes_true(self, told: Callable[[], bool], seconds: float) -> bool:
        "Wait for something; whether it came"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(Error):  # a view that is being replaced
                if told():
                    return True
            self.page.wait_for_timeout(30)
        return False

    def until(self, told: Callable[[], bool], what: str, seconds: float = 30) -> None:
        "Wait for something that must come"
        assert self.comes_true(told, seconds), f"{what}: not within {seconds:g} s"

    @contextlib.contextmanager
    def whole_panel(self) -> Iterator[None]:
        "A window as high as the panel, for the length of a block"
        panel = self.page.locator(".s3-panel").last
        panel.wait_for()
        high = int(panel.bounding_box()["height"]) + 260
        self.page.set_viewport_size({**WINDOW, "height": min(max(high, 700), 4000)})
        panel.scroll_into_view_if_needed()
        self.page.wait_for_timeout(400)
        yield
        self.page.set_viewport_size(WINDOW)

    def shot(self, name: str) -> Path:
        "Keep a picture of the window"
        SHOTS.mkdir(parents=True, exist_ok=True)
        file = SHOTS / f"{name}.png"
        self.page.screenshot(path=str(file))
        return file


@contextlib.contextmanager
def open_notebook(server: Lab, browser: Browser, notebook: str) -> Iterator[Desk]:
    "A new page on a notebook; its kernel is shut down afterwards"
    page, (top, *_) = browser.new_page(viewport=WINDOW), Path(notebook).parts
    desk = Desk(Path(notebook).stem, server.root / top, page)
    page.on("pageerror", lambda error: desk.faults.append(str(error)))
    page.on("console", lambda m: desk.faults.append(m.text) if m.type == "error" else None)
    page.set_default_timeout(30_000)
    try:
        page.goto(server.page(notebook), timeout=60_000)
        page.wait_for_function(READY, timeout=60_000)
        yield desk
    finally:
        with contextlib.suppress(Error):
            page.evaluate(
                "async () => await window.jupyterapp.shell.currentWidget.sessionContext.shutdown()"
            )
        page.close()
