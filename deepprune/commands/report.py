"""``deepprune report``: table and page of one run, or the comparison of many."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from deepprune.callbacks.sweep_figure import draw_sweep
from deepprune.commands.judge_report import MATRIX
from deepprune.core.errors import InputError
from deepprune.core.files import read_json
from deepprune.core.provenance import CONFIG, EVENTS, flat
from deepprune.core.statistics import estimates
from deepprune.evaluation.outcomes import RESULTS, read_rows
from deepprune.judge.measure.comparison import RunRecord, compare, read_run, read_runs
from deepprune.judge.measure.matrix import read_matrix
from deepprune.report.comparing import report_runs
from deepprune.report.figures import REPORT, drawn, report_page
from deepprune.report.sentences import (
    comparison_sentences,
    differences,
    grouped,
    provenance,
    run_sentences,
)
from deepprune.report.tables import (
    comparison_table,
    difference_table,
    judges_table,
    matrix_tables,
    show,
    sweep_table,
)

HELP = """\
Table and page of a run, or of many compared; also of runs that go on.

  deepprune report runs/DIR                    its table, and runs/DIR/report.html
  deepprune report runs/A runs/B --to cmp      both compared, and cmp/report.html
  deepprune report runs/SWEEP --by loss        a row for each loss; all else counts as seeds
  deepprune report runs/DIR --markdown         the same as Markdown, for a pull request
"""


def main(argv: Sequence[str]) -> None:
    """Run ``deepprune report``.

    Raises:
        InputError: If a folder holds no run, or no run has a name of ``--by``.
    """
    given = _parser().parse_args(argv)
    folders = [Path(folder) for folder in given.runs]
    runs = [run for folder in folders for run in _runs_of(folder)]
    is_one = len(runs) == 1 and runs[0].folder == folders[0]
    to = Path(given.to) if given.to else folders[0] if len(folders) == 1 else Path("report")
    by = given.by.split(",") if given.by else None
    if by is not None:
        runs = [_with_values(run, by) for run in runs]
        if absent := [n for n in by if not any(n in run.overrides for run in runs)]:
            raise InputError(
                f"--by names options, as in loss,sampler or loss.gamma; no run has {absent[0]!r}."
            )
    if is_one:
        _report_one(runs[0], to, given.markdown, given.figures)
    elif given.markdown:
        rows = compare(runs, _baseline(folders), by=by)
        print(as_markdown(comparison_sentences(rows), [comparison_table(rows)]))
    else:
        report_runs(runs, to, _baseline(folders), by, with_figure=given.figures)
    if not is_one:
        show(_differences(runs)) if not given.markdown else print(
            as_markdown([], [_differences(runs)])
        )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "deepprune report", description=HELP, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run or a multirun")
    parser.add_argument("--by", help="options that tell rows apart, e.g. loss,sampler")
    parser.add_argument("--markdown", action="store_true", help="print Markdown, write nothing")
    parser.add_argument("--figures", action="store_true", help="draw the figures (PNG, SVG) again")
    parser.add_argument("--to", help="folder of the page, default: that of the run, else report/")
    return parser


def _runs_of(folder: Path) -> list[RunRecord]:
    """Read the run of a folder, or those of a multirun.

    Raises:
        InputError: If there is none.
    """
    if any(folder.glob("*/.hydra/overrides.yaml")):
        return read_runs(folder)
    is_run = any((folder / name).exists() for name in (CONFIG, RESULTS, MATRIX))
    if not is_run or (folder / EVENTS).exists():
        raise InputError(
            f"{folder} holds no run of train, evaluate or judge-report: give the folder that these "
            "print as their last line, or that of a multirun."
        )
    return [read_run(folder)]


def _baseline(folders: Sequence[Path]) -> Mapping[str, Any] | None:
    """Return the baseline that a multirun was started with."""
    path = folders[0] / "multirun.yaml"
    if len(folders) > 1 or not path.exists():
        return None
    found: Any = OmegaConf.select(OmegaConf.load(path), "hydra.callbacks.comparison.baseline")
    return None if found is None else OmegaConf.to_container(found)  # type: ignore[return-value]


def _with_values(run: RunRecord, names: Sequence[str]) -> RunRecord:
    """Add choices and options that a run did not override, by name."""
    config = flat(read_json(run.folder / CONFIG)) if run.folder else {}
    every = {**config, **provenance(run).get("choices", {}), **run.overrides}
    found = {name: str(every[name]) for name in names if name in every}
    return replace(run, overrides={**run.overrides, **found})


def _report_one(run: RunRecord, to: Path, is_markdown: bool, with_figures: bool) -> None:
    """Show or print the tables of one run, and write its page."""
    assert run.folder is not None
    tables = []
    judges = read_json(run.folder / "judge_report.json")
    if judges:
        tables.append(judges_table({n: {"all": estimates(r["all"])} for n, r in judges.items()}))
    if rows := read_rows(run.folder):
        tables.append(sweep_table(rows, run.name))
    if matrix := read_matrix(run.folder / MATRIX):
        tables += [*matrix_tables(matrix), difference_table(matrix)]
    if is_markdown:
        print(as_markdown(run_sentences(run), tables))
        return
    for sentence in run_sentences(run):
        print(sentence)
    show(*tables)
    if with_figures and rows:
        draw_sweep(rows, to)
    if page := drawn(report_page, to / REPORT, [run]):
        print(f"report: {page}")


def _differences(runs: Sequence[RunRecord]) -> Table:
    """Tabulate the options in which runs differ, with the runs of each value."""
    table = Table("option", "values", title="options that differ", box=SIMPLE_HEAD)
    for option, values in differences(runs).items():
        table.add_row(option, Text(grouped(values, [run.name for run in runs])))
    return table


def as_markdown(sentences: Sequence[str], tables: Sequence[Table]) -> str:
    """Return sentences and tables as Markdown, titles and captions as paragraphs."""
    parts = [*sentences]
    for table in tables:
        columns = [[_plain(c.header), *map(_plain, c.cells)] for c in table.columns]
        head, *lines = ("| " + " | ".join(line) + " |" for line in zip(*columns, strict=True))
        rule = (
            "|" + "|".join("---:" if c.justify == "right" else "---" for c in table.columns) + "|"
        )
        lines = [head, rule, *lines]
        parts += [_plain(table.title or ""), "\n".join(lines), _plain(table.caption or "")]
    return "\n\n".join(part for part in parts if part)


def _plain(cell: Any) -> str:
    """Return the text of a cell on one line, with Markdown's column sign escaped."""
    text = cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain
    return " ".join(text.split()).replace("|", "\\|")
