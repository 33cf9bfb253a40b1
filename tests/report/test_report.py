"""What a sweep shows: every point by a label of its own, large sweeps in part, nothing by half."""

import io
from dataclasses import replace

import pytest
from builders import group
from rich.console import Console
from sweeps import PricedJudge, evaluate, points

from deepprune.callbacks.sweep_figure import SweepFigure, draw_sweep
from deepprune.commands import report
from deepprune.core.errors import InputError
from deepprune.data.prefixes import FirstTokens
from deepprune.evaluation.grid import grid
from deepprune.judge.baselines import OracleJudge
from deepprune.pruning.policies.adaptive_consistency import AdaptiveConsistency
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.report.figures import accuracy_figure, trade_off_figure
from deepprune.report.labels import (
    COSTS,
    cost_of,
    frontier_rows,
    labels,
    middle_rows,
    net_tokens,
)  # fmt: skip
from deepprune.report.sentences import command_line
from deepprune.report.tables import MOST_ROWS, finding, policy_table, shown_rows, sweep_table

GROUPS = [group(list("aabbacab"), [9, 8, 7, 12, 5, 9, 14, 9], name=f"q{i}") for i in range(5)]


def many():
    """66 points of three policies."""
    policies = {
        "deepprune": DeepPrune(FirstTokens(3)),
        "representatives": DeepPrune(FirstTokens(3), finish="representatives"),
        "adaptive_consistency": AdaptiveConsistency(),
    }
    axes = {
        "deepprune": {"clustering": ["greedy", "average"], "max_finishers": [1, 3]},
        "adaptive_consistency": {"stop_confidence": [0.8, 0.9], "cap": [None, 3, 5]},
    }
    return grid(
        policies,
        n_traces=8,
        judges=["priced"],
        thresholds=[0.2, 0.5, 0.8],
        prefixes=[FirstTokens(3), FirstTokens(5)],
        ns=[6, 8],
        axes=axes,
    )


def test_no_two_points_have_the_same_label(tmp_path):
    rows = evaluate(tmp_path, GROUPS, chosen=many())
    names = labels(rows)
    assert len(set(names)) == len(names) == len(rows)
    assert "cons@8" in names
    assert "deepprune 0.5 @ 3 tokens, greedy, K2 1, N 8" in names
    assert "adaptive_consistency, stop confidence 0.8, cap none, N 6" in names


def test_a_large_sweep_is_shown_in_part_and_says_so(tmp_path):
    rows = evaluate(tmp_path, GROUPS, chosen=many())
    assert len(rows) > MOST_ROWS
    shown = shown_rows(rows)
    assert {rows[i].policy for i in shown} == {"consensus", "deepprune", "adaptive_consistency"}
    assert f"{len(shown)} of {len(rows)} points" in sweep_table(rows).caption


def test_a_short_table_has_the_middle_of_each_grid_and_a_sentence(tmp_path):
    sweeps = [
        evaluate(tmp_path / name, GROUPS[:n], chosen=many()) for name, n in (("a", 5), ("b", 2))
    ]
    names = labels(sweeps[0])
    assert [names[i] for i in middle_rows(sweeps[0])] == [
        "deepprune 0.5 @ 5 tokens, average, K2 3, N 8",
        "representatives 0.5 @ 5 tokens, N 8",
        "adaptive_consistency, stop confidence 0.9, cap 3, N 8",
    ]
    table = policy_table(sweeps)
    first, *_, questions = (list(column.cells) for column in table.columns)
    assert first[:2] == ["cons@8", "deepprune 0.5 @ 5 tokens, average, K2 3, N 8, priced"]
    assert questions == ["5"] * 4 + ["2"] * 3
    said = finding(sweeps)
    assert said.startswith("deepprune 0.5 @ 5 tokens, average, K2 3, N 8 with priced: ")
    assert "5 questions" in said
    assert finding([[row for row in sweeps[0] if row.judge is None]]).startswith("adaptive_cons")
    assert finding([[]]) == ""


def test_the_frontier_is_what_no_cheaper_point_matches(tmp_path):
    rows = evaluate(tmp_path, GROUPS, chosen=many())
    kept = frontier_rows(rows)
    assert kept == sorted(kept, key=lambda i: net_tokens(rows[i]))
    for i, row in enumerate(rows):
        is_kept = i in kept
        better = [
            r
            for r in rows
            if net_tokens(r) < net_tokens(row) and r.accuracy.value >= row.accuracy.value
        ]
        assert not (is_kept and better)
        if not is_kept:
            assert any(
                net_tokens(r) <= net_tokens(row) and r.accuracy.value >= row.accuracy.value
                for r in rows
                if r is not row
            )


def test_rows_without_figures_are_shown_with_their_reason(tmp_path):
    rows = evaluate(tmp_path, GROUPS, chosen=points())
    lost = {"metrics": {}, "counts": {}, "reason": "as it was [/it]"}
    rows += [replace(rows[-1], status=status, **lost) for status in ("failed", "dropped")]
    table = sweep_table(rows)
    assert table.row_count == len(rows) - 2 - 4  # cons@3, 5, 6, 7
    assert "failed: deepprune" in table.caption
    assert "dropped: deepprune" in table.caption
    assert table.caption.count("as it was") == 2
    assert accuracy_figure(rows, tmp_path / "few.png", "few").stat().st_size > 10_000


def test_the_figure_of_a_large_sweep_and_of_consensus_alone(tmp_path):
    rows = evaluate(tmp_path, GROUPS, chosen=many())
    assert accuracy_figure(rows, tmp_path / "many.png", "many").stat().st_size > 10_000
    alone = [r for r in rows if r.policy == "consensus"]
    assert accuracy_figure(alone, tmp_path / "alone.png", "alone").stat().st_size > 10_000


def test_figures_against_every_cost(tmp_path):
    """A frontier by rising cost and accuracy; latency is known, in trace lengths of 10 tokens."""
    lengths = {group.key: 10.0 for group in GROUPS}
    rows = evaluate(tmp_path, GROUPS, chosen=many(), mean_lengths=lengths)
    for cost in COSTS:
        best = [cost_of(rows[i], cost) for i in frontier_rows(rows, cost)]
        assert best == sorted(best)
        assert best[0] == min(cost_of(row, cost) for row in rows)
        path = accuracy_figure(rows, tmp_path / f"{cost}.png", cost, cost)
        assert path.stat().st_size > 10_000
    assert trade_off_figure(rows, tmp_path / "three.png", "three").stat().st_size > 10_000
    with pytest.raises(InputError, match=r"one of net_tokens, .* got 'time'"):
        SweepFigure(cost="time")


def test_points_that_differ_in_the_judge_alone_have_different_labels(tmp_path):
    judges = {"priced": PricedJudge(), "oracle": OracleJudge()}
    chosen = grid({"deepprune": DeepPrune(FirstTokens(3))}, n_traces=8, judges=list(judges))
    names = labels(evaluate(tmp_path, GROUPS, chosen=chosen, judge=judges))
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("make", [many, points])
def test_what_is_not_known_is_left_blank(tmp_path, make):
    metrics = dict.fromkeys(("net_saving", "accuracy_vs_matched_cons_net"))
    counts = dict.fromkeys(("generator_flops", "judge_flops", "tokens_net"))
    rows = [
        replace(row, metrics=row.metrics | metrics, counts=row.counts | counts)
        for row in evaluate(tmp_path, GROUPS, chosen=make())
    ]
    table = sweep_table(rows)
    assert table.row_count == len(shown_rows(rows))
    saved = next(c for c in table.columns if str(c.header).startswith("saved, net"))
    assert set(saved.cells) == {""}
    Console(file=io.StringIO(), width=160).print(table)


def test_a_sweep_that_failed_altogether_has_no_figure(tmp_path):
    rows = evaluate(tmp_path, GROUPS, chosen=points())
    rows = [replace(row, status="failed", reason="no [/traces]") for row in rows]
    draw_sweep(rows, tmp_path)
    assert not list(tmp_path.glob("*.png"))
    Console(file=io.StringIO(), width=160).print(sweep_table(rows))


def test_a_run_of_prune_has_no_report(tmp_path):
    for name in ("config.json", "events.jsonl"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match="no run of train, evaluate or judge-report"):
        report.main([str(tmp_path)])


@pytest.mark.parametrize(
    "given", [["--config-dir", "mine"], ["-cd", "mine"], ["--config-dir=mine"]]
)
def test_the_command_of_a_run_has_its_config_dir(given):
    about = {
        "choices": {"command": "evaluate"},
        "command": ["deepprune", "evaluate", *given, "-m"],
        "overrides": ["judge=coin"],
    }
    assert command_line(about) == "deepprune evaluate --config-dir=mine judge=coin"
