"""Views of questions that are pruned live: in a terminal, and as lines.

A model's text is untrusted: it is shown without control characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deepprune.core.protocols import Observation, Status, Step, TraceState
from deepprune.core.types import Decision
from deepprune.evaluation.watcher import Watcher
from deepprune.live.question import LiveQuestion, LiveResult

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red", "bright_cyan", "bright_magenta")
"""Colours of clusters, in the order in which the clusters open, used again from the start."""

_FRAMES_PER_SECOND = 4
_SHOWN_ANSWERS = 6
_BAR = 24  # columns; the longest trace so far fills them
_FRAME_LINES = 10  # lines of the view that are not traces


def one_line(text: str) -> str:
    """Put a text on one line, without control characters and bidirectional marks."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


class LiveView(Watcher, Live):
    """A row for every trace of the current question, redrawn several times per second.

    Args:
        title: Policy, judge and model.
        n_questions: Number of questions of the run.
        console: Draws the frames.
    """

    def __init__(self, title: str, n_questions: int, console: Console | None = None) -> None:
        self._title, self._n_questions, self._n_done = title, n_questions, 0
        self._question: LiveQuestion | None = None
        self._row: LiveResult | None = None
        super().__init__(
            get_renderable=self._frame,
            console=console,
            refresh_per_second=_FRAMES_PER_SECOND,
            vertical_overflow="crop",
        )

    def on_question_start(self, live: LiveQuestion) -> None:
        self._question, self._row = live, None

    def on_question_end(self, live: LiveQuestion, row: LiveResult) -> None:
        self._row = row
        self._n_done += 1
        self.refresh()

    def _frame(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._n_questions > 1:
            parts.append(Text(f"{self._n_done} of {self._n_questions} questions"))
        if self._question is not None:
            height = max(4, self.console.height - _FRAME_LINES)
            parts.append(question_frame(self._question, self._row, self._title, height))
        return Group(*parts)


def question_frame(
    live: LiveQuestion, row: LiveResult | None, title: str, height: int = 24
) -> RenderableType:
    """Draw a question: at most ``height`` traces, the vote, tokens and saving, judge, time.

    Its result ``row`` is known once it is decided.
    """
    states, decisions = live.session.states(), {d.trace: d for d in list(live.decisions)}
    shown = _most_telling(states, decisions, height)
    parts: list[RenderableType] = [
        Text(one_line(live.question.text), style="bold", no_wrap=True, overflow="ellipsis"),
        Text(one_line(title), style="dim", no_wrap=True, overflow="ellipsis"),
        _traces(states, decisions, shown),
    ]
    if hidden := [state for i, state in enumerate(states) if i not in shown]:
        parts.append(Text(f"and {len(hidden)} more traces: {_counted(hidden)}", style="dim"))
    tokens = f"{sum(state.n_tokens for state in states):,} tokens"
    if row is None:
        votes, seconds = _votes(live.vote()), live.seconds
    else:
        votes, seconds = _row_votes(row), row["seconds"]
        tokens += f", {_saving(row)}"
    judge = live.evidence
    footer = [
        f"vote    {votes or 'nobody yet'}",
        f"traces  {_counted(states) or 'none yet'} of {live.n_traces}; {tokens}",
        f"judge   {judge.n_scores:,} scores, {judge.seconds:.1f} s; {seconds:.1f} s in all",
    ]
    parts += map(Text, footer)
    if live.fallback is not None:
        parts.append(Text(_fallback(live.fallback), style="bold red"))
    if row is not None and row["status"] != "ok":
        parts.append(Text(f"{row['status']}: {one_line(row['reason'])}", style="bold red"))
    return Group(*parts)


def _most_telling(
    states: Sequence[TraceState], decisions: Mapping[int, Decision], height: int
) -> list[int]:
    """Choose the traces that get a row: representatives, running, finished, stopped ones."""
    if len(states) <= height:
        return list(range(len(states)))
    representatives = {d.by for d in decisions.values()}

    def rank(i: int) -> tuple[bool, ...]:
        return i not in representatives, i in decisions, states[i].status is not Status.RUNNING

    return sorted(sorted(range(len(states)), key=rank)[: height - 1])


def _traces(
    states: Sequence[TraceState], decisions: Mapping[int, Decision], shown: Iterable[int]
) -> Table:
    """Draw a row per trace: number, bar, tokens, text; traces of a cluster have one colour."""
    colours: dict[int | None, str] = {}
    for decision in decisions.values():
        if decision.cluster is not None:
            colour = COLOURS[decision.cluster % len(COLOURS)]
            colours[decision.trace] = colour
            colours.setdefault(decision.by, colour)
    longest = max([1, *(state.n_tokens for state in states)])
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(width=_BAR)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for i in shown:
        state, colour = states[i], colours.get(i, "white")
        bar = ProgressBar(
            longest, state.n_tokens, width=_BAR, complete_style=colour, finished_style=colour
        )
        if state.status is Status.STOPPED:
            said = Text(_why(decisions[i]) if i in decisions else "stopped", style=colour)
        elif state.status is Status.FAILED:
            said = Text("failed", style="bold red")
        elif state.status is Status.FINISHED:
            said = Text(_said(state.answer), style="bold")
        else:
            said = Text(one_line(state.tail)[-60:], style="dim")
        table.add_row(Text(str(i), style=colour), bar, f"{state.n_tokens:,}", said)
    return table


def _why(decision: Decision) -> str:
    """Return ``stopped: redundant, like 3 (0.81)``."""
    like = "" if decision.by is None else f", like {decision.by}"
    score = "" if decision.score is None else f" ({decision.score:.2f})"
    return f"stopped: {decision.reason.value.replace('_', ' ')}{like}{score}"


def _said(answer: str | None) -> str:
    return "no answer" if answer is None else f"= {one_line(answer)}"


def _counted(states: Iterable[TraceState]) -> str:
    counts = Counter(state.status for state in states)
    return ", ".join(f"{counts[s]} {s.value}" for s in Status if counts[s])


def _fallback(reason: str) -> str:
    return f"unpruned, all traces vote: {one_line(reason)}"


def _row_votes(row: LiveResult) -> str:
    return _votes([(w["answer"] or "?", w["weight"]) for w in row["weights"]])


def _votes(votes: Sequence[tuple[str, float]]) -> str:
    """Return ``42 x5, 41 x1``."""
    return ", ".join(f"{one_line(answer)} x{weight:g}" for answer, weight in votes[:_SHOWN_ANSWERS])


def _saving(row: LiveResult) -> str:
    if (gross := row["saving_estimated"]) is None:
        return "no estimate"
    net = row["net_saving_estimated"]
    said = "" if net is None else f", {100 * net:.0f} % net"
    return f"estimated saving {100 * gross:.0f} % gross{said}"


class ProgressLines(Watcher):
    """Prints a line per checkpoint and per kind of decision, for output that is not a terminal."""

    def __init__(self, title: str, n_questions: int) -> None:
        self._n_questions, self._n_done = n_questions, 0
        self._stopped: Counter[str] = Counter()
        print(one_line(title))

    def on_question_start(self, live: LiveQuestion) -> None:
        print(f"{one_line(live.question.text)[:160]}", flush=True)

    def on_checkpoint(self, live: LiveQuestion, step: Step, seen: Observation) -> None:
        votes = _votes(live.vote())
        self._print(
            f"{live.seconds:6.1f} s  {len(seen.n_tokens)} traces, {seen.is_finished.sum()} "
            f"finished, {seen.n_tokens.sum():,} tokens{'; vote ' * bool(votes)}{votes}"
        )

    def on_decision(self, live: LiveQuestion, decision: Decision) -> None:
        self._stopped[decision.reason.value.replace("_", " ")] += 1

    def on_fallback(self, live: LiveQuestion, reason: str) -> None:
        self._print(_fallback(reason))

    def on_question_end(self, live: LiveQuestion, row: LiveResult) -> None:
        self._n_done += 1
        if row["status"] != "ok":
            self._print(f"{row['status']}: {one_line(row['reason'])}")
        else:
            failed = f", {row['n_failed']} traces failed" if row["n_failed"] else ""
            self._print(
                f"{row['seconds']:6.1f} s  {_said(row['answer'])} by {_row_votes(row) or 'nobody'};"
                f" {row['tokens']:,} tokens, {_saving(row)}{failed}"
            )
        if self._n_questions > 1:
            print(f"{self._n_done} of {self._n_questions} questions", flush=True)

    def _print(self, line: str) -> None:
        """Print a line after the traces that were stopped before it."""
        if self._stopped:
            said = ", ".join(f"{n} {why}" for why, n in self._stopped.most_common())
            print(f"          stopped {self._stopped.total()}: {said}")
            self._stopped.clear()
        print(f"  {line}", flush=True)
