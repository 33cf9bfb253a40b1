"""Page of a run or of many: ``report.html``, one file that needs no network.

Everything on it is read from the run folders, so that it can be made again, and of a run that goes
on. Data are in the page once, as JSON; what they hold is text to the page, never markup.

Needs the extra ``report``.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from deepprune import __version__
from deepprune.core.files import as_json, read_json, read_lines, write_atomic
from deepprune.core.provenance import CONFIG
from deepprune.evaluation.metrics import ABOVE_CONSENSUS
from deepprune.evaluation.outcomes import QUESTIONS, RESULTS, Row, read_rows
from deepprune.judge.measure.comparison import HEADLINE, ComparedRow, RunRecord
from deepprune.judge.measure.matrix import read_matrix
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.report import charts, datasets
from deepprune.report.datasets import Records
from deepprune.report.sentences import (
    command_line,
    comparison_sentences,
    differences,
    grouped,
    provenance,
    run_sentences,
)
from deepprune.report.tables import SHOWN_IN_COMPARISON, metric_label, varied_options

_SWITCH = {
    "tokens": "generated tokens",
    "net_tokens": "tokens net of the judge",
    "latency": "latency, mean trace lengths",
    "engine_seconds": "engine seconds",
}
_ESCAPED = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


@dataclass
class _Section:
    """A part of the page: texts, then charts, tables and lines of commands."""

    id: str
    title: str
    texts: list[str] = field(default_factory=list)
    charts: list[dict[str, Any]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    has_timeline: bool = False


@dataclass
class _Page:
    """Sections with their data, and the specifications of their charts.

    The texts of the questions are most of a page: they stand at its end, and are read when their
    section is in sight.
    """

    sections: list[_Section] = field(default_factory=list)
    data: dict[str, Records] = field(default_factory=dict)
    specs: dict[str, list[Any]] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    questions: Records = field(default_factory=list)

    def section(self, name: str, title: str, *texts: str) -> _Section:
        self.sections.append(_Section(name, title, list(texts)))
        return self.sections[-1]

    def chart(
        self,
        name: str,
        title: str,
        variants: Mapping[str, charts.Chart],
        label: str = "",
        is_wide: bool = False,
    ) -> None:
        """Add a chart to the last section; of several variants the reader chooses one."""
        self.specs[name] = [chart.to_dict(validate=False) for chart in variants.values()]
        chart = {"id": name, "title": title, "variants": list(variants), "label": label}
        self.sections[-1].charts.append(chart | {"wide": is_wide})

    def table(
        self,
        data: str,
        columns: Sequence[dict[str, Any]],
        filters: Sequence[str] = (),
        brush: str | None = None,
    ) -> None:
        """Add a table of some data; ``brush`` is the chart whose selection it shows."""
        titles = {column["key"]: column["title"] for column in columns}
        chosen = [{"key": key, "title": titles[key]} for key in filters if key in titles]
        self.tables[data] = {
            "data": data, "columns": list(columns), "filters": chosen, "brush": brush,
        }  # fmt: skip
        self.sections[-1].tables.append({"id": data})


def write_page(path: Path, runs: Sequence[RunRecord], compared: Sequence[ComparedRow] = ()) -> Path:
    """Write the page of one run, or of several with the rows that compare them; return ``path``."""
    page = _Page()
    names = _run_names(runs)
    headline = comparison_sentences(compared) if len(runs) > 1 else run_sentences(runs[0])
    _add_points(page, [_rows(run.folder) for run in runs], names)
    if len(runs) == 1 and runs[0].folder is not None:
        for results in sorted(runs[0].folder.glob(f"*/{RESULTS}")):  # of sweep.networks
            _add_points(page, [read_rows(results.parent)], names, results.parent.name)
    if len(runs) == 1:
        _add_judge(page, runs[0])
        _add_matrix(page, runs[0])
    else:
        _add_comparison(page, compared)
    _add_training(page, runs, names)
    if len(runs) == 1:
        _add_questions(page, runs[0])
    _add_configuration(page, runs, names)
    data = {
        name: [{k: v for k, v in record.items() if v is not None} for record in records]
        for name, records in page.data.items()
    }
    payload = {
        "data": data, "charts": page.specs, "tables": page.tables, "config": charts.CONFIG,
    }  # fmt: skip
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    part = files("deepprune.report")
    html = environment.from_string(part.joinpath("page.html").read_text()).render(
        title=f"deepprune: {path.parent.absolute().name}",
        headline=headline,
        facts=_facts(runs),
        sections=page.sections,
        version=__version__,
        css=Markup(part.joinpath("page.css").read_text()),
        payload=Markup(_script_json(payload)),
        questions=Markup(_script_json(page.questions)) if page.questions else "",
        vega=Markup(_vega()),
        script=Markup(part.joinpath("page.js").read_text()),
    )
    write_atomic(path, html)
    return path


def _script_json(value: Any) -> str:
    """Return JSON that may stand inside ``<script>``: it ends no element and no line."""
    text = json.dumps(as_json(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.encode("utf-8", "replace").decode()  # lone surrogates
    for sign, escaped in _ESCAPED.items():
        text = text.replace(sign, escaped)
    return text


@cache
def _vega() -> str:
    """Return the JavaScript that draws the charts, ``vegaEmbed``.

    vl-convert bundles it in two to three seconds, so it is kept in the user's cache.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "deepprune"
    kept = folder / f"vega-{version('vl-convert-python')}.js"
    if kept.exists():
        return kept.read_text()
    text = vl_convert.javascript_bundle(None)  # type: ignore[arg-type]
    text = text.replace("</script", "<\\/script")
    with suppress(OSError):  # a home that cannot be written to
        write_atomic(kept, text)
    return text


def _run_names(runs: Sequence[RunRecord]) -> list[str]:
    """Name runs by the options in which they differ, else by their folders."""
    options = dict.fromkeys(name for run in runs for name in run.overrides)
    varied = [n for n in options if len({run.overrides.get(n) for run in runs}) > 1]
    names = [", ".join(f"{n}={r.overrides[n]}" for n in varied if n in r.overrides) for r in runs]
    if len(set(names)) < len(names):
        names = [
            f"{run.name}: {name}" if name else run.name
            for run, name in zip(runs, names, strict=True)
        ]
    return names


def _facts(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Return where and when the runs were made, of what data; the first run's where they differ."""
    first = next((run for run in runs if run.folder), runs[0])
    about, facts = provenance(first), {}
    if choices := about.get("choices", {}):
        facts["command"] = f"deepprune {choices['command']}"
    if commit := about.get("commit"):
        facts["commit"] = commit[:10] + (", with uncommitted changes" if about.get("diff") else "")
    if started := about.get("started"):
        facts["started"] = started.replace("T", " ").replace("+00:00", " UTC")
    if first.folder:
        config = read_json(first.folder / CONFIG)
        hashes = {str(v)[:10] for k, v in config.get("inputs", {}).items() if "traces" in k and v}
        data = config.get("traces")
        if data is not None:
            shown = ", ".join(map(str, data)) if isinstance(data, list) else str(data)
            facts["traces"] = shown + (f" (SHA-256 {', '.join(sorted(hashes))})" if hashes else "")
    if len(runs) > 1:
        facts["runs"] = str(len(runs))
    return facts


def _rows(folder: Path | None) -> list[Row]:
    return [] if folder is None else read_rows(folder)


def _add_points(
    page: _Page, runs: Sequence[Sequence[Row]], names: Sequence[str], data: str = "points"
) -> None:
    """Add accuracy against costs, and the table of all points of each run's rows."""
    points: Records = []
    curves: list[Any] = []
    n_series = 0
    for rows, name in zip(runs, names, strict=True):
        found = datasets.point_records(rows, name if len(runs) > 1 else "")
        curve = [(p["accuracy"], p.get("tokens")) for p in found if p["policy"] == "consensus"]
        if curve in curves:  # runs on the same questions share it
            found = [p for p in found if p["policy"] != "consensus"]
        curves.append(curve)
        n_series += len({p["series"] for p in found})
        points += found
    if not points:
        return
    if len(runs) > 1 and n_series <= len(charts.COLOURS) + 1:
        for point in points:
            if point["series"] != datasets.CONSENSUS:
                point["series"] += f", {point['run']}"
    if len(runs) > 1:
        few = len(points) <= datasets.FEW_POINTS
        for point in points:
            point["few"] = point["few"] and few
    costs = [c for c in _SWITCH if all(c in p for p in points)]
    page.data[data] = points
    page.section(
        data,
        "Accuracy against tokens" + ("" if data == "points" else f": {data}"),
        "Grey: consensus sampling, the vote of k whole traces, with its 95 % band. A line joins "
        "the points of a policy that no other of its points beats in both; the table compares "
        "with every k. A click on a name isolates a policy; a rectangle drawn in the chart fills "
        "the table below.",
    )
    variants = {
        _SWITCH[cost]: charts.accuracy_chart(points, cost, "container", data=data) for cost in costs
    }
    chart = "accuracy" if data == "points" else f"accuracy_{data}"
    page.chart(chart, "Accuracy of every point of the sweep", variants, "against")
    columns = [
        _text("label", "point"),
        *([_text("run", "run")] if len(runs) > 1 else []),
        _text("policy", "policy"),
        _text("judge", "judge"),
        _number("accuracy", "accuracy, %", 1),
        _number("accuracy_vs_matched_cons_net", "vs cons@k of equal net tokens, points", 1),
        _number("accuracy_vs_hull", "vs hull of equal tokens, points", 1),
        _number("token_saving", "tokens saved, %", 1),
        _number("net_saving", "FLOPs saved, net of the judge, %", 1),
        *(_number(cost, _SWITCH[cost], 0 if "tokens" in cost else 2) for cost in costs),
        _number("judge_calls", "judge calls a question", 0),
    ]
    known = [c for c in columns if any(p.get(c["key"]) is not None for p in points)]
    page.table(data, known, ("policy", "judge", "run"), chart)


def _text(key: str, title: str) -> dict[str, Any]:
    return {"key": key, "title": title, "text": True}


def _number(key: str, title: str, digits: int) -> dict[str, Any]:
    return {"key": key, "title": title, "digits": digits}


def _add_judge(page: _Page, run: RunRecord) -> None:
    """Add what the scores of the test pairs show."""
    if run.scores is None or not run.scores.scores.size:
        return
    scored: PairScores = run.scores
    page.data |= {
        "roc": datasets.roc_records(scored),
        "aurocs": datasets.question_auroc_records(scored),
        "reliability": datasets.reliability_records(scored),
        "histogram": datasets.histogram_records(scored),
    }
    n_questions = len(set(scored.group.tolist()))
    page.section(
        "judge",
        "Judge",
        f"{len(scored.labels):,} pairs of {n_questions} test questions, "
        f"{100 * scored.labels.mean():.0f} % with the same answer. Pooled over questions, a judge "
        "that knows only how hard a question is looks skilled; pruning can use what it knows "
        "within one.",
    )
    wide = "container"
    page.chart("roc", "ROC: pooled and within questions", {"": charts.roc_chart(wide)})
    aurocs = charts.question_auroc_chart(page.data["aurocs"], wide)
    page.chart("aurocs", "AUROC of each question (dots grow with the pairs)", {"": aurocs})
    reliability = charts.reliability_chart(page.data["reliability"], width=wide)
    page.chart("reliability", "Reliability of the scores", {"": reliability})
    histogram = charts.histogram_chart(width=wide)
    page.chart("histogram", "Scores by label", {"": histogram})


def _add_matrix(page: _Page, run: RunRecord) -> None:
    """Add the judges and baselines of a ``judge-report``."""
    lines = read_matrix(run.folder / "matrix.jsonl") if run.folder else []
    if not lines:
        return
    cells = page.data["matrix"] = datasets.matrix_records(lines)
    page.section("matrix", "Judges on these traces")
    shown = datasets.matrix_metrics(cells)
    variants = {
        metric_label(n): charts.interval_chart(
            "matrix", cells, n, metric_label(n), group="cell", series="judge", at=0.5,
            width="container",
        )
        for n in shown
    }  # fmt: skip
    if shown:
        page.chart(
            "matrix", "Judges and baselines, with intervals over questions", variants, "metric"
        )
    columns = [_text("cell", "traces"), _text("judge", "judge"), _text("kind", "kind")]
    columns += [
        _number(n, metric_label(n), 3) for n in dict.fromkeys((*shown, "auroc_within", "ece"))
    ]
    page.table("matrix", columns, ("cell", "kind"))


def _add_comparison(page: _Page, rows: Sequence[ComparedRow]) -> None:
    """Add the rows of a multirun: heat map, dots with intervals, parallel coordinates, table."""
    names = varied_options(rows)
    records = page.data["runs"] = datasets.run_records(rows, names)
    shown = {n: label.replace("\n", " ") for n, label in SHOWN_IN_COMPARISON.items()}
    shown = {n: label for n, label in shown.items() if any(n in r for r in records)}
    page.section("runs", "Comparison of the runs")
    if shown:
        wide = "container"
        if len(names) > 1:
            heat = page.data["heat"] = datasets.heat_records(records, names)
            axes = names[-1], ", ".join(names[:-1])
            maps = {t: charts.heat_chart(heat, *axes, n, t, wide) for n, t in shown.items()}
            page.chart("heat", f"{axes[1]} x {axes[0]}", maps, "metric")
        at = {HEADLINE: 0.5, "auroc_unfinished": 0.5, ABOVE_CONSENSUS: 0.0}
        dots = {
            t: charts.interval_chart("runs", records, n, t, at=at.get(n), width=wide)
            for n, t in shown.items()
        }
        if any("difference" in r for r in records):
            title = "AUROC within question, difference to the baseline (full: clear of 0)"
            dots["difference to the baseline"] = charts.interval_chart(
                "runs", records, "difference", title, full="is_clear", at=0, width=wide
            )
        page.chart("dots", "With 95 % intervals", dots, "metric")
        if len(records) > 1:
            lines = page.data["parallel"] = datasets.parallel_records(records, names, shown)
            chart = charts.parallel_chart(lines, wide)
            title = "Options and metrics, each from its lowest to its highest"
            page.chart("parallel", title, {"": chart}, is_wide=True)
    columns = [
        *(_text(n, n) for n in names),
        _number("runs", "runs", 0),
        _number("missing", "missing", 0),
    ]
    columns += [_number(n, label, 3) for n, label in shown.items()]
    if any("difference" in r for r in records):
        columns.append(_number("difference", "AUROC, difference to the baseline", 3))
    page.table("runs", columns, names)


def _add_training(page: _Page, runs: Sequence[RunRecord], names: Sequence[str]) -> None:
    """Add the curves of the training."""
    records: Records = []
    for run, name in zip(runs, names, strict=True):
        for path in sorted(run.folder.glob("**/metrics.jsonl")) if run.folder else ():
            beside = path.parent.name if path.parent != run.folder else ""
            records += datasets.training_records(path, ", ".join(filter(None, (name, beside))))
    if not records:
        return
    page.data["training"] = records
    page.section("training", "Training")
    wanted = ["train_loss", "val_loss", "val_auroc_within_unfinished", "val_auroc_within"]
    points = Counter((record["metric"], record["run"]) for record in records)
    there = [m for m in wanted if any(n > 1 for (metric, _), n in points.items() if metric == m)]
    for metric in there[:3]:
        chart = charts.training_chart(records, metric, "container")
        page.chart(f"training_{metric}", metric.replace("_", " "), {"": chart})


def _add_questions(page: _Page, run: RunRecord) -> None:
    """Add the votes of the recorded questions, and the timeline of the one that is chosen."""
    questions = read_lines(run.folder / QUESTIONS) if run.folder else []
    if not questions:
        return
    page.questions = questions
    votes = page.data["votes"] = []
    for question in questions:
        spelled = {t["class"]: t["answer"] for t in reversed(question["traces"])}
        for course in question["runs"]:
            votes.append(
                {
                    "question": question["question"],
                    "point": course["point"],
                    "vote": _cut(course.get("answer") or spelled.get(course["vote"]) or "none"),
                    "gold": _cut(question["gold"] or ""),
                    "is": "right" if course["is_correct"] else "wrong",
                    "tokens": sum(course["tokens"]),
                    "started": len(course["tokens"]),
                    "stopped": len(course["stopped"]),
                }
            )
    page.section(
        "questions",
        "Questions",
        f"{len(questions)} questions in one order of their traces, at the middle point of each "
        "policy.",
    )
    columns = [_text(n, n) for n in ("question", "point", "vote", "gold", "is")]
    columns += [_number(n, n, 0) for n in ("tokens", "started", "stopped")]
    page.table("votes", columns, ("point", "is"))
    page.specs["timeline"] = [charts.timeline_chart("container").to_dict(validate=False)]
    page.sections[-1].has_timeline = True


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


def _add_configuration(page: _Page, runs: Sequence[RunRecord], names: Sequence[str]) -> None:
    """Add choices, options that differ, and the commands that reproduce the runs."""
    section = page.section("configuration", "Configuration")
    abouts = [provenance(run) for run in runs]
    if len(runs) == 1:
        choices = abouts[0].get("choices", {})
        if choices:
            page.data["choices"] = [{"name": k, "choice": _said(v)} for k, v in choices.items()]
            page.table("choices", [_text("name", "choice of"), _text("choice", "chosen")])
        if changed := abouts[0].get("changed", {}):
            page.data["changed"] = [
                {"option": k, "default": _said(d), "value": _said(v)}
                for k, (d, v) in changed.items()
            ]
            columns = [
                _text("option", "option"),
                _text("default", "default"),
                _text("value", "here"),
            ]
            page.table("changed", columns)
    elif differing := differences(runs):
        section.texts.append("Options in which the runs differ:")
        page.data["differing"] = [
            {"option": option, "values": grouped(values, names)}
            for option, values in differing.items()
        ]
        page.table("differing", [_text("option", "option"), _text("values", "values")])
    lines = [line for about in abouts if (line := command_line(about))]
    if lines:
        section.texts.append("The commands that made this:")
        commits = dict.fromkeys(about["commit"] for about in abouts if about.get("commit"))
        checkouts = [f"git checkout {commit}" for commit in commits]
        section.commands.append("\n".join([*checkouts, *lines]))


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
