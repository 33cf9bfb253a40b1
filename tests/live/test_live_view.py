"""What is shown and told while a question is pruned live."""

import io
import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from builders import group, recorded
from rich.console import Console

from deepprune.core.types import FinishReason
from deepprune.data.prefixes import FirstTokens
from deepprune.judge.baselines import OracleJudge
from deepprune.live.events import EventLines
from deepprune.live.guard import JudgeWorker
from deepprune.live.pruner import LivePruner
from deepprune.live.summary import live_table, tokens_figure
from deepprune.live.view import LiveView, ProgressLines, one_line, question_frame
from deepprune.pruning.policies.deepprune import DeepPrune

POLICY = DeepPrune(FirstTokens(4), finish="representatives", vote="size")


class Frames:
    """Keeps the frame of every event."""

    def __init__(self, height=24, title="the title"):
        self.frames = []
        self._height = height
        self._title = title

    def _draw(self, live, row=None):
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(question_frame(live, row, self._title, self._height))
        self.frames.append(console.export_text())

    def on_question_start(self, live):
        self._draw(live)

    def on_checkpoint(self, live, step, seen):
        self._draw(live)

    def on_decision(self, live, decision):
        self._draw(live)

    def on_fallback(self, live, reason):
        self._draw(live)

    def on_question_end(self, live, row):
        self._draw(live, row)


def pruned(traces, *watchers, judge=None, **policy):
    n = len(traces.traces)
    judge, chosen = judge or OracleJudge(), DeepPrune(FirstTokens(4), **policy)
    policy = chosen if policy else POLICY
    pruner = LivePruner(recorded(traces), "tiny", policy, judge, JudgeWorker(5), n, 0, None)
    done = pruner.prune(traces.question, watchers)
    for watcher in watchers:
        watcher.on_question_end(done.live, done.row)
    return done


def test_a_frame_has_traces_decisions_the_vote_and_the_estimate():
    frames = Frames()
    pruned(group([r"\boxed{a}", r"\boxed{b}"] * 3, 20, gold="a"), frames)
    first, *_, last = frames.frames
    assert "nobody yet" in first
    assert "saving" not in first
    assert last.count("stopped: redundant, like 0 (1.00)") == 2
    assert last.count("stopped: redundant, like 1 (1.00)") == 2
    assert r"= \boxed{a}" in last
    assert r"vote    \boxed{a} x3, \boxed{b} x3" in last  # as the records spell it
    assert "2 finished, 4 stopped of 6; 56 tokens, estimated saving 53 % gross" in last
    assert "% net" not in last, "the size of the generator is not known"


def test_a_model_cannot_write_into_the_terminal(capsys):
    nasty = "[red]x[/red]\x1b[2J\x9b31m\u202e"
    assert one_line(nasty) == "[red]x[/red] [2J 31m"
    assert one_line("a\r\n\tb\0") == "a b"
    frames = Frames(title=nasty)
    traces = group([nasty] * 2, 6, name=nasty)
    done = pruned(traces, frames, ProgressLines(nasty, 1))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(live_table([done.row], nasty, seed=0))
    shown = [*frames.frames, capsys.readouterr().out, console.export_text()]
    for text in shown:
        assert "[red]x[/red]" in text
        assert not set("\x1b\x9b\u202e") & set(text)


def test_of_many_traces_the_telling_ones_are_shown_and_the_others_counted():
    """Of 40 traces in two clusters: the two that others are like, and what became of the rest."""
    frames = Frames(height=6)
    pruned(group(["a"] * 20 + ["b"] * 20, 20), frames)
    last = frames.frames[-1].splitlines()
    shown = [line.split()[0] for line in last[2:] if line.split()[0].isdigit()]
    assert shown[0] == "0"
    assert "20" in shown
    assert len(shown) == 5
    assert any("and 35 more traces: 35 stopped" in line for line in last)


def test_why_the_judge_was_given_up_is_shown_and_told(capsys):
    class Broken(OracleJudge):
        def score(self, pairs):
            raise RuntimeError("no memory")

    frames, stream = Frames(), io.StringIO()
    lines = ProgressLines("the title", 1), EventLines(stream)
    pruned(group(["a", "b"], 6), frames, *lines, judge=Broken())
    why = "the judge 'oracle' failed: RuntimeError: no memory"
    said = f"unpruned, all traces vote: {why}"
    assert [said in frame for frame in frames.frames] == [False, False, True, True, True]
    assert capsys.readouterr().out.count(said) == 1
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    names = ["start", "checkpoint", "fallback", "checkpoint", "vote", "answer"]
    assert [event["event"] for event in events] == names
    assert (events[2]["reason"], events[-1]["saving_estimated"]) == (why, 0)


class Unlike(OracleJudge):
    def score(self, pairs):
        return np.zeros(len(pairs))


def test_failed_traces_are_shown_and_summed_up(capsys):
    """Two of four failed after 10 tokens: told as such, and no part of the saving."""
    whole = group(["a", None, "a", None], 10)
    traces = [
        t if t.answer else replace(t, finish_reason=FinishReason.FAILED) for t in whole.traces
    ]
    frames = Frames()
    whole = replace(whole, traces=tuple(traces))
    done = pruned(whole, frames, ProgressLines("the title", 1), judge=Unlike())
    assert "2 finished, 2 failed of 4; 40 tokens, estimated saving 0 % gross" in frames.frames[-1]
    assert "40 tokens, estimated saving 0 % gross, 2 traces failed" in capsys.readouterr().out
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(live_table([done.row], "the title", seed=0))
    assert "traces failed            │ 2" in console.export_text()


def test_every_event_is_a_line_of_json():
    stream = io.StringIO()
    done = pruned(group(["a", "b"] * 2, 10), EventLines(stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [e["event"] for e in events] == [
        "start", "checkpoint", "decision", "decision", "checkpoint", "vote", "answer",
    ]  # fmt: skip
    assert {e["question_id"] for e in events} == {"q"}
    assert events[1]["until"] == {"kind": "first_tokens", "k": 4}
    assert events[1]["n_tokens"] == [4] * 4
    decision = {k: events[2][k] for k in ("trace", "reason", "cluster", "by", "score")}
    expected = {"trace": 2, "reason": "redundant", "cluster": 0, "by": 0, "score": 1.0}
    assert decision == expected
    assert events[4]["finished"] == [0, 1]
    assert events[5]["answer"] == "a"
    assert events[5]["weights"] == [{"answer": "a", "weight": 1}, {"answer": "b", "weight": 1}]
    assert {k: v for k, v in events[6].items() if k in done.row} == done.row


def test_the_terminal_shows_a_bar_over_questions_and_the_last_frame():
    console = Console(width=100, height=20, file=io.StringIO(), force_terminal=True)
    with LiveView("the title", 2, console) as view:
        pruned(group(["a", "b"], 6), view)
    text = console.file.getvalue()
    assert "1 of 2" in text
    assert "What is q?" in text


def test_the_summary_of_a_set(tmp_path):
    rows = [pruned(group(["a", "b"] * 2, 10, name=name)).row for name in "pqr"]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(live_table(rows, "the title", seed=0))
    text = console.export_text()
    assert "3 decided, 0 failed" in text
    assert "100.0 [100.0, 100]" in text, "accuracy"
    assert "30.0 [30.0, 30.0]" in text, "28 of 40 tokens a question"
    assert "not known" in text, "the net saving"
    assert tokens_figure(rows, tmp_path / "t.png").stat().st_size > 5_000


def test_a_reader_that_goes_away_does_not_end_the_run():
    reading, writing = os.pipe()
    os.close(reading)
    live = SimpleNamespace(question=group(["a", "b"]).question, seconds=0.0)
    with os.fdopen(writing, "w") as gone:
        lines = EventLines(gone)
        lines.on_fallback(live, "no judge")
        lines.on_fallback(live, "no judge")
    lines._stream.close()
