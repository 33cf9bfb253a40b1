"""The page of a run: what stands on it is text, and it works in a browser."""

import json
import os
import re
import shutil

import pytest
from sweeps import evaluate
from test_report import GROUPS, many

from deepprune.core.files import read_lines
from deepprune.core.provenance import open_run
from deepprune.evaluation.outcomes import Row, read_rows
from deepprune.evaluation.runner import cut_text
from deepprune.judge.measure.comparison import read_run
from deepprune.report.charts import _labels, _overlap
from deepprune.report.datasets import point_records
from deepprune.report.page import write_page
from deepprune.report.sentences import best_sentences, differences

HOSTILE = "</script><script>window.hacked = 1</script>\u2028\u202e\0<b>&amp;"
BROWSER = shutil.which("chromium-headless-shell") or shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep of 66 points whose configuration holds markup."""
    path = tmp_path_factory.mktemp("run")
    lengths = {group.key: 10.0 for group in GROUPS}
    evaluate(path, GROUPS, chosen=many(), mean_lengths=lengths)
    facts = {"choices": {"command": "evaluate", "data": HOSTILE}, "changed": {"x": [1, HOSTILE]}}
    open_run(path, {"traces": HOSTILE}, [f"traces={HOSTILE}"], facts)
    trace = {"text": HOSTILE * 9, "tokens": 9, "answer": HOSTILE, "class": 0}
    stopped = {"trace": 1, "reason": "redundant", "cluster": 0, "by": 0, "score": 0.7}
    course = {"point": "deepprune 0.5", "vote": 0, "is_correct": True, "tokens": [9, 4]}
    course |= {"voters": [0], "stopped": [stopped]}
    question = {"dataset": "d", "question": HOSTILE, "text": HOSTILE, "gold": "1", "correct": [0]}
    line = json.dumps({**question, "traces": [trace, trace], "runs": [course]})
    (path / "questions.jsonl").write_text(f"{line}\n")
    write_page(path / "report.html", [read_run(path)])
    return path


def test_a_row_is_read_as_it_was_written(folder):
    rows = read_rows(folder)
    lines = read_lines(folder / "results.jsonl")
    assert [row.columns for row in rows] == lines
    assert all(isinstance(row, Row) for row in rows)


def test_what_a_run_holds_is_no_markup(folder):
    """Four scripts: data, Vega, ours, questions. Hostile text is in the JSON, and nowhere else."""
    html = (folder / "report.html").read_text()
    assert html.count("<script") == html.count("</script>") == 4
    assert "<b>" not in html
    data = json.loads(re.search(r'id="payload">(.*?)</script>', html, re.S)[1])["data"]
    assert data["changed"][0]["value"] == HOSTILE
    questions = json.loads(re.search(r'id="payload-questions">(.*?)</script>', html, re.S)[1])
    assert questions[0]["text"] == HOSTILE


def test_the_best_point_stands_beside_the_headline(folder):
    row = next(row for row in read_rows(folder) if row.policy == "deepprune")
    best = {**row.columns, "n_questions_choosing": 2, "n_questions": 3}
    (said,) = best_sentences(json.loads(json.dumps(best)), read_rows(folder))
    assert said.startswith("best point: deepprune 0.2 @ 3 tokens, greedy")
    assert ". Chosen on 2 questions, it saves" in said


def test_options_that_follow_from_a_choice_are_not_among_those_that_differ(tmp_path):
    configs = {
        "a": {"loss": {"_target_": "A", "gamma": 2}, "k": 1, "policy": {"k": 1}, "same": 0},
        "b": {"loss": {"_target_": "B"}, "k": 2, "policy": {"k": 2}, "same": 0},
    }
    for name, config in configs.items():
        open_run(tmp_path / name, config, [], {"choices": {"loss": name}})
    found = differences([read_run(tmp_path / name) for name in configs])
    assert found == {"loss": ["a", "b"], "k": [1, 2]}


def test_labels_overlap_neither_points_nor_each_other(folder):
    """Of boxes that a reader of the figure would see."""
    points = point_records(read_rows(folder))
    labels = _labels(points, "tokens", (1, 200), (0, 100), 640, 400)
    assert len(labels) > 2
    places = [(round(label["x"], 3), label["y"], label["dx"], label["dy"]) for label in labels]
    assert len(set(places)) == len(places)
    assert _overlap((0, 0, 2, 2), (1, 1, 3, 3))
    assert not _overlap((0, 0, 2, 2), (2, 0, 3, 3))


def test_a_long_text_is_cut():
    assert cut_text("a" * 1200) == "a" * 1200
    cut = cut_text("a" * 600 + "b" * 1_000_000 + "c" * 600)
    assert cut == "a" * 600 + " [... 1,000,000 characters ...] " + "c" * 600


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if BROWSER is None and "DEEPPRUNE_NEEDS_BROWSER" not in os.environ:  # which CI sets
        pytest.skip("needs chromium-headless-shell")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(params=[1400, 420])
def page(browser, request):
    """A tab, of a laptop's and of a phone's width, whose messages must be none."""
    tab = browser.new_page(viewport={"width": request.param, "height": 900})
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: request.url.startswith("file:") or said.append(request.url))
    yield tab
    assert not said
    assert tab.evaluate("window.hacked") is None
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.close()


def test_sorting_filtering_searching_and_copying(page, folder):
    page.goto(f"file://{folder}/report.html")
    table = page.locator('[data-table="points"]')
    rows = table.locator("tbody tr")
    n_points = len(point_records(read_rows(folder)))
    assert table.locator(".count").inner_text() == f"{n_points} of {n_points} rows"

    header = table.get_by_role("button", name="accuracy, %")
    header.focus()
    page.keyboard.press("Enter")  # the keyboard is enough
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    index = table.locator("th").all_inner_texts().index("accuracy, %")
    cells = [
        float(cell.split()[0])
        for cell in rows.locator(f"td:nth-child({index + 1})").all_inner_texts()
    ]
    assert cells == sorted(cells, reverse=True)

    table.get_by_label("Filter by policy").select_option("representatives")
    policies = rows.locator("td:nth-child(2)").all_inner_texts()
    assert set(policies) == {"representatives"}
    table.get_by_label("Search").fill("0.2 @ 3")
    assert all("0.2 @ 3" in text for text in rows.locator("td:first-child").all_inner_texts())
    assert rows.count() == 2  # N = 6 and 8
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    table.get_by_role("button", name="copy as CSV").click()
    lines = page.evaluate("window.copied").splitlines()
    assert lines[0].startswith("label,policy,")
    assert len(lines) == 3


def test_charts_are_drawn_and_a_brush_fills_the_table(page, folder):
    page.goto(f"file://{folder}/report.html")
    chart = page.locator('[data-chart="accuracy"] svg').first
    chart.wait_for()
    chart.evaluate("chart => chart.scrollIntoView()")  # the mouse reaches what is in sight
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 300, steps=4)
    page.mouse.up()
    clear = page.get_by_role("button", name="clear selection")
    clear.wait_for()
    n_points = len(point_records(read_rows(folder)))
    found, total = page.locator('[data-table="points"] .count').inner_text().split(" of ")
    assert int(found) < n_points == int(total.split()[0])
    clear.click()
    page.get_by_text(f"{n_points} of {n_points} rows").wait_for()
    page.locator('[data-variant="accuracy"]').select_option(label="latency, mean trace lengths")
    page.locator('[data-chart="accuracy"]').get_by_text(
        "latency, mean trace lengths"
    ).first.wait_for()


def test_the_timeline_of_a_question_shows_hostile_text_as_text(page, folder):
    page.goto(f"file://{folder}/report.html")
    browser = page.locator("[data-browser]")
    browser.scroll_into_view_if_needed()
    browser.locator("details").first.wait_for(state="attached")
    assert HOSTILE.replace("\0", "") in browser.locator("[data-about]").text_content().replace(
        "\0", ""
    )
    chart = browser.locator('[data-chart="timeline"]')
    chart.scroll_into_view_if_needed()
    chart.locator("svg").first.wait_for()
    traces = browser.locator("details")
    assert (
        "#1: 4 of 9 tokens, stopped: redundant, for #0, score 0.700" in traces.nth(1).text_content()
    )
    traces.nth(1).locator("summary").press("Enter")
    assert HOSTILE[:40] in traces.nth(1).locator("pre").text_content()
