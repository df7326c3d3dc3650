"""Pages in a real browser, where there is one: headless Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from page_checks import Element, check_page, parsed
from run_helpers import make_tasks

from solver.report.html_page import html_page
from solver.report.shown import ShownTask
from solver.report.shown_html import tasks_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


def opened(page: str, folder: Path, target: str = "") -> tuple[Element, list[str]]:
    """The elements of a page once its script has run, and what it wrote to the console."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom", f"{path.as_uri()}{target}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return parsed(done.stdout), re.findall(r"CONSOLE.*", done.stderr)


def some_tasks() -> list[ShownTask]:
    return [ShownTask(task) for task in make_tasks(3)]


def test_the_script_of_a_page_offers_a_filter_and_draws_the_task_that_a_link_names(tmp_path: Path) -> None:
    page = tasks_page("tasks", [], some_tasks())
    check_page(page)
    root, console = opened(page, tmp_path, "#t1")
    assert console == []
    (form,) = root.every("form")
    assert "hidden" not in form.attributes
    assert form.every("output")[0].text() == "3 of 3 tasks"
    first, second, third = [one for one in root.every("details") if one.has_class("task")]
    assert "open" in second.attributes
    assert not {"open"} & {*first.attributes, *third.attributes}
    assert len(second.every("canvas")) == len(second.every("pre")) == 8
    assert {canvas.attributes["aria-hidden"] for canvas in second.every("canvas")} == {"true"}
    assert len(root.every("canvas")) == 8  # those of closed tasks are not drawn


def test_the_browser_refuses_every_other_script(tmp_path: Path) -> None:
    page = html_page("t", [], []).replace("</main>", "<p id=made></p><script>document.title = 'changed'</script></main>")
    root, console = opened(page, tmp_path)
    assert root.every("title")[0].text() == "t"
    assert any("Content Security Policy" in line for line in console)


def test_a_hostile_id_stays_text(tmp_path: Path) -> None:
    evil = "<script>document.title = 'changed'</script>"
    tasks = [replace(one, task=replace(one.task, id=evil)) for one in some_tasks()]
    root, console = opened(tasks_page(evil, [evil], tasks), tmp_path)
    assert root.every("title")[0].text() == evil
    assert console == []
