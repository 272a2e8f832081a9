"""A run's page in a real browser, from the disk: the slider moves the pictures, Play goes on."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from s3net.base.config import preset
from s3net.eval.album import write_album
from s3net.show.pictures import save_picture
from s3net.train.record import start_run

STEPS = range(5, 45, 5)
NAME = "<b>x&y"
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SHOTS = Path(__file__).resolve().parents[1] / "runs" / "shots"


def write_run(path: Path) -> Path:
    "A run folder of eight snapshots, each of another colour, and one picture missing at a step"
    run = start_run(path, "phase1", preset("tiny", steps=40, lr_depth=0.5, real_drives="<i>a</i>"))
    lines = []
    for step in STEPS:
        flat = np.full((32, 96, 3), (6 * step, 255 - 6 * step, 120), np.uint8)
        flat[:, : 2 * step] = 255
        save_picture(run.path / f"snapshots/{step:08d}/depth.png", flat)
        if step != 20:
            save_picture(run.path / f"snapshots/{step:08d}/translated.jpg", 255 - flat)
        terms = {"task": [1 / step, 10.0], "gan": [0.5, 1.0]}
        record = {"step": step, "time": 0.0, "seconds": 0.1, "updates": {"translator": terms}}
        lines.append(json.dumps(record) + "\n")
    (run.path / "metrics.jsonl").write_text("".join(lines))
    return run.path


@pytest.fixture(scope="module")
def browser() -> Iterator:
    "Debian's Chromium; without one the tests are skipped here, and fail where CI runs"
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        found = None
    if found is None:
        reason = "no playwright or no chromium; pip install playwright, apt install chromium"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    return write_album(write_run(folder / NAME), folder / "album.html")


@pytest.fixture
def page(browser, album: Path) -> Iterator:
    "The page, opened from the disk; nothing may be fetched and nothing may go wrong"
    shown, wrong = browser.new_page(viewport={"width": 1280, "height": 900}), []
    shown.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    fetched = []
    shown.on("request", lambda r: fetched.append(r.url) if r.url[:5] != "data:" else None)
    shown.goto(album.as_uri())
    shown.wait_for_selector(".album img[src^='data:']")
    yield shown
    shown.close()
    assert wrong == [] and fetched == [album.as_uri()]


def picture(page, name: str) -> str:
    "The bytes of the picture shown"
    return page.locator(f".album figure:has(b:text-is('{name}')) img").get_attribute("src")


def said(page) -> str:
    return page.locator(".album output").text_content()


def mark(page) -> float:
    "Where the step shown is marked in the first chart"
    return float(page.locator(".charts .now").first.get_attribute("d")[1:].split()[0])


def test_opens_at_the_last_snapshot(page):
    assert said(page) == "step 40 of 40"
    images = page.locator(".album figure img")
    images.evaluate_all("all => Promise.all(all.map(image => image.decode()))")
    sizes = images.evaluate_all(
        "all => all.map(image => [image.naturalWidth, image.naturalHeight])"
    )
    assert sizes == [[96, 32], [96, 32]]
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "album.png", full_page=True)


def test_name_and_settings_are_text(page):
    assert page.title() == NAME and page.locator("h1").text_content() == NAME
    assert page.locator("h1 b").count() == 0 and page.locator("td i").count() == 0
    assert page.locator("td", has_text="<i>a</i>").count() == 1
    assert page.locator("tr", has_text="lr_depth").locator("td").first.text_content() == "0.5"


def test_slider_moves_pictures_and_marks(page):
    slider, seen, marks = page.locator(".album input"), {picture(page, "depth")}, [mark(page)]
    slider.focus()
    for step in (35, 30):
        slider.press("ArrowLeft")
        assert said(page) == f"step {step} of 40"
        seen.add(picture(page, "depth"))
        marks.append(mark(page))
    assert len(seen) == 3 and marks == sorted(marks, reverse=True) and len(set(marks)) == 3
    slider.press("Home")
    assert said(page) == "step 5 of 40"


def test_slider_moves_under_the_mouse(page):
    before, box = picture(page, "translated"), page.locator(".album input").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert picture(page, "translated") != before and said(page) in (
        "step 20 of 40",
        "step 25 of 40",
    )


def test_a_picture_that_is_missing_is_said(page):
    slider = page.locator(".album input")
    slider.evaluate("e => { e.value = 3; e.dispatchEvent(new Event('input')); }")
    figure = page.locator(".album figure", has=page.locator("b:text-is('translated')"))
    assert said(page) == "step 20 of 40" and "not at this step" in figure.text_content()
    slider.press("ArrowRight")
    assert "not at this step" not in figure.text_content()


def test_play_goes_on_and_stops(page):
    from playwright.sync_api import expect

    button, slider = page.locator(".album button"), page.locator(".album input")
    speed, output = page.locator(".album select"), page.locator(".album output")
    speed.select_option("2")
    assert "Play" in button.text_content()
    button.click()  # from the end: begins anew
    expect(output).to_have_text("step 15 of 40")
    button.click()
    held = slider.input_value()
    assert "Play" in button.text_content() and 0 < int(held) < 7
    page.wait_for_timeout(800)
    assert slider.input_value() == held
    speed.select_option("15")
    button.focus()
    page.keyboard.press("Enter")
    expect(output).to_have_text("step 40 of 40")
    expect(button).to_contain_text("Play")


def test_dark_theme_is_readable(browser, album: Path):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    page.goto(album.as_uri())
    light = "([r, g, b]) => 0.2 * r + 0.7 * g + 0.1 * b"
    shade = "e => ({light})(getComputedStyle(e).{what}.match(/[\\d.]+/g).map(Number))"
    ink = page.locator("h1").evaluate(shade.format(light=light, what="color"))
    paper = page.locator("body").evaluate(shade.format(light=light, what="backgroundColor"))
    assert ink > 200 and paper < 50
    page.screenshot(path=SHOTS / "album_dark.png")
    page.close()
