"""The inspect notebooks as a person uses them: a real JupyterLab, a real browser, mouse and keys.

Each notebook is opened from a clean state: a copy of the checkout with data and without runs. The
tables below say, for every control, which views must change when it is moved once, by keys alone.
"""

import dataclasses
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from s3net.base.config import Config
from s3net.eval.judged import load_at
from lab import FOCUSED, LABELS, Desk, Lab, browser_file, clean_copy, launch, open_notebook, serve
from playwright.sync_api import Browser, sync_playwright

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Move:
    "What happens when a control is moved once"

    changes: tuple[str, ...]  # views that must look different afterwards
    keys: str = ""  # keys pressed one after the other; "" = the usual one for this kind of control
    stays: tuple[str, ...] = ()  # views that must look the same
    first: Callable[[Desk], object] | None = None  # brought about before
    back: str = ""  # keys that undo it, where what follows needs that


def move(
    changes: str, keys: str = "", stays: str = "", first: Callable | None = None, back: str = ""
) -> Move:
    return Move(tuple(changes.split()), keys, tuple(stays.split()), first, back)


def runs_of(desk: Desk) -> list[Path]:
    "Run folders that the notebook made"
    return sorted(p.parent for p in desk.root.glob("runs/**/config.json"))


def new_checkpoint(desk: Desk) -> None:
    "What a training that is under way would write"
    for run in runs_of(desk):
        newest = max((run / "checkpoints").glob("[0-9]" * 8))
        shutil.copytree(newest, newest.parent / f"{int(newest.name) + 1:08d}")


USUAL = {
    "slider": "ArrowRight",
    "dropdown": "ArrowDown",
    "checkbox": "Space",
    "button": "Enter",
    "pick": "ArrowLeft",
    "several": "ArrowDown",
    "text": "Enter",
    "play": "Enter",
}
INSIDE = {
    "slider": ".noUi-handle",
    "dropdown": "select",
    "several": "select",
    "checkbox": "input",
    "text": "input",
    "pick": ".s3-pick",
    "play": "button",
}
MODELS = "depth0 error0 depth1 error1"
ALL = f"image true {MODELS} readout figures classes distances profile"
PICKED = "readout profile"
DEPTH = {
    "frame": move(ALL),
    "part": move(ALL),
    "truth": move(f"true error0 error1 {PICKED} figures classes distances", stays="image"),
    "scale": move(f"{MODELS} {PICKED} figures classes distances", stays="image true"),
    "range": move("error0 error1 legend", stays="image true depth0 depth1 readout"),
    "measure": move("classes distances", stays=f"image true {MODELS} figures"),
    "checkpoint": move(f"depth0 error0 {PICKED} figures", "ArrowLeft", "image true depth1"),
    "model": move("say", stays=f"image true {MODELS}"),
    "again": move("checkpoint", first=new_checkpoint),
    "image": move(PICKED, stays=f"image {MODELS} figures"),
    "true": move(PICKED, "ArrowUp", "true"),
    "depth0": move(PICKED, "ArrowRight"),
    "error0": move(PICKED, "Shift+ArrowDown"),
    "depth1": move(PICKED, "Shift+ArrowRight"),
    "error1": move(PICKED, "ArrowDown"),
    "cloud": move("points-drawn"),
    "colour": move("points-drawn", stays=f"image {MODELS}"),
    "points": move("points-drawn", stays=f"image {MODELS}"),
    "ply": move("link"),
}
COLOURS = "translated difference"
TRANSLATION = {
    "factor": move("difference", stays="source translated figures"),
    "clip": move(f"source {COLOURS} figures"),
    "frame": move(f"source {COLOURS} figures"),
    "checkpoint": move(f"{COLOURS} figures", "ArrowLeft", "source"),
    "other": move("translated_beside figures", stays=f"source {COLOURS}"),
    "show": move("labels_truth labels_before labels_after changed key source", stays="figures"),
    "given": move("labels_before labels_after changed figures", stays="labels_truth"),
    "again": move("checkpoint", first=new_checkpoint),
}
MASKS = {
    "clip": move("target mask union mask_before mask_after figures say"),
    "checkpoint": move("mask union figures say", "ArrowLeft", "target"),
    "reduce": move("mask figures", stays="target"),
    "strict": move("figures", stays="target"),
    "truth": move("mask union figures say", stays="target"),
    "over": move("kept", stays="target mask"),
    "both": move("union mask_before mask_after figures", stays="target mask"),
    "show": move("warped_before warped_after depth mask", stays="figures"),
    "again": move("checkpoint", first=new_checkpoint),
}
LIVE = {
    "kind": move("command", back="ArrowUp"),
    "preset": move("command", back="ArrowUp"),
    "name": move("command", "End x Enter"),
    "settings": move("synthetic", back="ArrowUp"),
    "start": move("facts run say"),
    "pause": move("facts", first=lambda desk: until_state(desk, "training, step")),
    "resume": move("facts", first=lambda desk: until_state(desk, "paused")),
    "stop": move("facts", first=lambda desk: until_state(desk, "training, step")),
    "relaunch": move("facts say", first=lambda desk: until_state(desk, "stopped at")),
    "look": move("run", first=lambda desk: (shows_enough(desk), end_all(desk), copy_run(desk))),
    "run": move("facts chart"),
    "folder": move("facts chart", first=lambda desk: name_other_run(desk)),
    "values": move("chart"),
    "smooth": move("chart"),
    "scale": move("chart", "ArrowDown ArrowDown"),
    "curves": move("chart"),
    "runs": move("chart"),
    "snapshot": move("moment picture-0", "ArrowLeft"),
    "follow": move("moment picture-0"),
    "pictures": move("pictures picture-0"),
    "play": move("moment picture-0"),
}
TABLES = {"translation": TRANSLATION, "masks": MASKS, "depth": DEPTH, "live": LIVE}


def process_of(run: Path) -> int:
    "Number of the process that trains a run"
    return json.loads((run / "process.json").read_text())["pid"]


def records(run: Path) -> int:
    "Lines of metrics.jsonl"
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def until_state(desk: Desk, words: str) -> None:
    desk.until(lambda: words in desk.text("facts"), f"the panel says {words!r}", 60)


def ended(pid: int) -> bool:
    "Whether a training's process is gone"
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def shows_enough(desk: Desk) -> None:
    "Wait until every run has curves and pictures to choose from, however fast this machine is"
    desk.until(
        lambda: all(
            records(run) >= 8 and len([*(run / "snapshots").glob("[0-9]" * 8)]) >= 3
            for run in runs_of(desk)
        ),
        "eight records and three snapshots of every run",
        60,
    )


def end_all(desk: Desk) -> None:
    "Stop the trainings that the notebook has started and that go on, and wait for their end"
    going = [r for r in runs_of(desk) if (r / "process.json").is_file()]
    going = [r for r in going if not (r / "ended.json").is_file()]
    for run in going:
        (run / "STOP").touch()
    pids = [process_of(run) for run in going]
    desk.until(lambda: all(map(ended, pids)), f"the end of {pids}", 60)


def copy_run(desk: Desk) -> None:
    "Another run, as if somebody else had trained it"
    run = next(r for r in runs_of(desk) if records(r))
    other = shutil.copytree(run, run.parent / "other")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (other / "metrics.jsonl").write_text("".join(lines[: len(lines) // 2]))


def name_other_run(desk: Desk) -> None:
    "Type the path of a run that is not shown into the field for it"
    shown = desk.find("run").locator("select").evaluate("e => e.selectedOptions[0].text")
    other = next(r for r in runs_of(desk) if r.name != shown)
    desk.find("folder").locator("input").fill(str(other))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    "One browser for all tests; none is a reason to skip, but not where everything must be tested"
    with sync_playwright() as playwright:
        if (file := browser_file(playwright)) is None:
            told = "no Chromium or Chrome; apt-get install chromium, or playwright install chromium"
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(told)
        opened = launch(playwright, file)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    "One server for all tests"
    root, place = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("jupyter")
    with serve(root, place) as server:
        yield server


@pytest.fixture(scope="module", params=list(TABLES))
def desk(request: pytest.FixtureRequest, lab: Lab, browser: Browser) -> Iterator[Desk]:
    "One notebook from a clean state, all cells run"
    clean_copy(lab.root / request.param, f"inspect/{request.param}.ipynb")
    notebook = f"{request.param}/nbs/inspect/{request.param}.ipynb"
    with open_notebook(lab, browser, notebook) as opened:
        opened.run_all()
        yield opened
        end_all(opened)


def test_opens_and_runs_without_an_error(desk: Desk):
    desk.page.wait_for_timeout(1000)
    with desk.whole_panel():
        desk.shot(desk.name)
    assert desk.faults == []


def test_every_control_has_a_label_and_is_reached_by_tab(desk: Desk):
    controls = desk.controls()
    assert controls and desk.page.evaluate(LABELS) == []
    usable = {name for name in controls if not desk.disabled(name)}
    assert usable and usable - desk.tab_through(len(controls)) == set()


def test_plain_keys_stay_in_the_panel_and_commands_reach_the_notebook(desk: Desk):
    count = "() => window.jupyterapp.shell.currentWidget.content.widgets.length"
    saved = "() => !window.jupyterapp.shell.currentWidget.context.model.dirty"
    kind = {"translation": "other", "masks": "reduce", "depth": "truth", "live": "preset"}
    cells = desk.page.evaluate(count)
    for keys in ("b", "a", "Shift+ArrowDown"):  # JupyterLab: insert below, above, mark the next
        desk.press(kind[desk.name], "select", keys)
        assert desk.page.evaluate(FOCUSED) == kind[desk.name]
    desk.press(kind[desk.name], "select", "Home")
    assert desk.page.evaluate(count) == cells
    desk.page.keyboard.press("Control+s")
    desk.until(lambda: desk.page.evaluate(saved), "the notebook saved by Ctrl+S")


@pytest.mark.parametrize("desk", ["live"], indirect=True)
def test_a_training_is_started_paused_left_alone_and_stopped_from_its_page(desk: Desk):
    run = desk.root / "runs" / "live"
    desk.find("start").click()
    until_state(desk, "training, step")
    assert desk.count_changes(["chart", "picture-0"], least=3, seconds=60) == {}
    pid = process_of(run)

    desk.find("pause").click()
    until_state(desk, "paused at")
    desk.page.wait_for_timeout(4000)  # the panel looks every 3 s
    held, shown = records(run), desk.text("facts")
    desk.page.wait_for_timeout(4000)
    assert records(run) == held and desk.text("facts") == shown
    desk.find("resume").click()
    desk.until(lambda: records(run) > held, "steps after the pause")

    desk.restart_kernel()
    held = records(run)
    desk.until(lambda: records(run) > held, "steps while the kernel is new")
    assert not ended(pid)
    desk.run_all()
    until_state(desk, "training, step")
    assert desk.count_changes(["facts", "picture-0"], least=1, seconds=60) == {}
    with desk.whole_panel():
        desk.shot("live_training")

    desk.page.wait_for_timeout(1000)  # the picture was work for this machine
    began = time.monotonic()
    desk.find("stop").click()
    desk.until(lambda: ended(pid), "the end of the training", 30)
    seconds = time.monotonic() - began
    until_state(desk, "stopped at step")
    with desk.whole_panel():
        desk.shot("live_stopped")
    newest = max((run / "checkpoints").glob("[0-9]" * 8))
    assert load_at(run, newest.name).depth is not None and int(newest.name) >= held
    assert seconds <= 5


@pytest.mark.parametrize("desk", ["live"], indirect=True)
def test_every_setting_changes_the_command(desk: Desk):
    base, fields, tried, deaf = set(desk.controls()), {}, set(), []
    for _ in range(4):
        desk.press("settings", "select", "ArrowDown")
        done = base | tried
        desk.until(lambda done=done: set(desk.controls()) - done, "the fields of a group")
        fields = {n: k for n, k in desk.controls().items() if n not in base}
        deaf += [name for name, kind in fields.items() if not setting_is_heard(desk, name, kind)]
        tried |= set(fields)
    desk.press("settings", "select", "Home")
    desk.until(lambda: set(desk.controls()) == base, "no group")
    assert deaf == []
    assert tried == {f.name for f in dataclasses.fields(Config)} - {"preset"}


def setting_is_heard(desk: Desk, name: str, kind: str) -> bool:
    "Change a setting by its keys and back; its word in the command must follow, or a sentence"
    place, keys = desk.find(name).locator(INSIDE[kind]).first, {"checkbox": ("Space", "Space")}
    before = word_of(desk, name)
    last = kind == "dropdown" and place.evaluate("e => e.selectedIndex === e.length - 1")
    keys["dropdown"] = ("ArrowUp", "ArrowDown") if last else ("ArrowDown", "ArrowUp")
    keys["text"] = ("End 1 Enter", "End Backspace Enter")
    there, back = keys[kind]
    desk.press(name, INSIDE[kind], there)
    heard = desk.comes_true(lambda: word_of(desk, name) != before, 10)
    desk.press(name, INSIDE[kind], back)
    return heard and desk.comes_true(lambda: word_of(desk, name) == before, 10)


def word_of(desk: Desk, name: str) -> str:
    "What the panel says about a setting: its word in the command, or what is wrong with it"
    said = desk.text("say")
    found = re.search(rf" {name}=(\S*)", desk.text("command"))
    return said if f"setting {name} " in said else found.group() if found else ""


def test_every_control_changes_what_it_should(desk: Desk):
    table, kinds = TABLES[desk.name], desk.controls()
    assert set(table) == set(kinds), "the table and the panel name different controls"
    wrong = [told for name in table if (told := moved_wrongly(desk, name, kinds[name]))]
    with desk.whole_panel():
        desk.shot(f"{desk.name}_moved")
    assert wrong == [] and desk.faults == []


def moved_wrongly(desk: Desk, name: str, kind: str) -> str:
    "Move a control by its keys; a sentence about what did not follow, or nothing"
    wanted = TABLES[desk.name][name]
    views = [*wanted.changes, *wanted.stays]
    if wanted.first is not None:
        wanted.first(desk)
    before = desk.looks(views)
    desk.press(name, INSIDE.get(kind, ""), wanted.keys or USUAL[kind])
    still = desk.unchanged(before, wanted.changes)
    after = desk.looks(views)
    if wanted.back:
        desk.press(name, INSIDE.get(kind, ""), wanted.back)
        desk.until(lambda: desk.looks(views) != after, f"{name} back at its place")
    jumped = [v for v in wanted.stays if before[v] != after[v]]
    told = [f"{name} did not change {', '.join(still)}"] * bool(still)
    told += [f"{name} changed {', '.join(jumped)} too"] * bool(jumped)
    return "; ".join(told)


def test_readable_in_the_dark_theme(desk: Desk):
    desk.theme(dark=True)
    desk.page.wait_for_timeout(500)
    with desk.whole_panel():
        desk.shot(f"{desk.name}_dark")
        low = desk.low_contrast()
    desk.theme(dark=False)
    assert low == [] and desk.faults == []
