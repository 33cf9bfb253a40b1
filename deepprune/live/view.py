"""The terminal while questions are pruned live: traces that grow, who stops whom, the vote.

What a model writes is untrusted: it is shown as plain text, without control characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deepprune.core.protocols import Observation, Status, Step, TraceState
from deepprune.core.types import Decision
from deepprune.evaluation.saving import Saving
from deepprune.evaluation.watcher import Watcher
from deepprune.live.question import LiveQuestion, LiveResult

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red", "bright_cyan", "bright_magenta")
"""Of clusters, in the order of their opening; they come round again."""

_FRAMES_A_SECOND = 4
_FEW = 6
"""So many answers of a vote are shown."""

_BAR = 24
"""Columns of a bar; the longest trace so far fills it."""

_FRAME_LINES = 9
"""Lines of the view that are no traces."""


def plain(text: str) -> str:
    """The text on one line without control characters: escape sequences, bidirectional marks."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


class LiveView(Watcher):
    """A rich ``Live`` with a row for every trace; a context manager.

    Args:
        title: What prunes: policy, judge, model.
        n_questions: How many questions there will be.
        console: Where to.
    """

    def __init__(self, title: str, n_questions: int, console: Console | None = None) -> None:
        self.console = console or Console()
        self._title = title
        self._n_questions = n_questions
        self._n_done = 0
        self._live: LiveQuestion | None = None
        self._row: LiveResult | None = None
        self._screen = Live(
            get_renderable=self.render,
            console=self.console,
            refresh_per_second=_FRAMES_A_SECOND,
            vertical_overflow="crop",
        )

    def __enter__(self) -> LiveView:
        self._screen.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._screen.stop()

    def on_question_start(self, live: LiveQuestion) -> None:
        """Show this one from now on."""
        self._live, self._row = live, None

    def on_checkpoint(self, live: LiveQuestion, step: Step, seen: Observation) -> None:
        """The next frame shows it."""

    def on_decision(self, live: LiveQuestion, decision: Decision) -> None:
        """Likewise."""

    def on_fallback(self, live: LiveQuestion, reason: str) -> None:
        """Likewise."""

    def on_question_end(self, live: LiveQuestion, row: LiveResult) -> None:
        """Show what came out."""
        self._row = row
        self._n_done += 1
        self._screen.refresh()

    def render(self) -> RenderableType:
        """The frame of this moment."""
        parts: list[RenderableType] = []
        if self._n_questions > 1:
            bar = Table.grid(padding=(0, 1))
            bar.add_row(
                Text("questions"),
                ProgressBar(self._n_questions, self._n_done, width=40),
                Text(f"{self._n_done} of {self._n_questions}"),
            )
            parts.append(bar)
        if self._live is not None:
            height = max(4, self.console.height - _FRAME_LINES - 2 * len(parts))
            parts.append(question_frame(self._live, self._row, self._title, height))
        return Group(*parts)


def question_frame(
    live: LiveQuestion, row: LiveResult | None, title: str, height: int = 24
) -> RenderableType:
    """A question as it stands: its traces, the vote, tokens and saving, judge, time.

    Args:
        live: The question.
        row: Its record, once it is there.
        title: What prunes.
        height: Most rows of traces.
    """
    states, decisions = live.states(), {d.trace: d for d in list(live.decisions)}
    clusters = _clusters(decisions)
    answers = {i: live.answer(i, state) for i, state in enumerate(states)}
    longest = max([1, *(state.n_tokens for state in states)])
    shown = _interesting(states, decisions, answers, height)
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(width=_BAR)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for i in shown:
        state, colour = states[i], _colour(clusters.get(i))
        bar = ProgressBar(longest, state.n_tokens, width=_BAR)
        bar.complete_style = bar.finished_style = colour
        table.add_row(
            Text(str(i), style=colour),
            bar,
            Text(f"{state.n_tokens:,}"),
            _what(state, decisions.get(i), answers[i], colour),
        )
    parts: list[RenderableType] = [
        Text(plain(live.question.text), style="bold", no_wrap=True, overflow="ellipsis"),
        Text(plain(title), style="dim", no_wrap=True, overflow="ellipsis"),
        table,
    ]
    if hidden := [states[i] for i in range(len(states)) if i not in set(shown)]:
        counts = Counter(state.status.value for state in hidden)
        said = ", ".join(f"{n} {status}" for status, n in counts.most_common())
        parts.append(Text(f"and {len(hidden)} more traces: {said}", style="dim"))
    saving = live.saving(states) if row is None else _saving_of(row)
    seconds = live.seconds if row is None else row["seconds"]
    votes = live.vote() if row is None else weights_of(row)
    parts += [Text(line) for line in _footer(live, states, votes, saving, seconds)]
    if live.fallback is not None:
        parts.append(Text(said_fallback(live.fallback), style="bold red"))
    if row is not None and row["status"] != "ok":
        parts.append(Text(f"{row['status']}: {plain(row['reason'])}", style="bold red"))
    return Group(*parts)


def _clusters(decisions: Mapping[int, Decision]) -> dict[int, int]:
    """The cluster of every trace that was stopped, or that a stopped one is like."""
    found = {d.trace: d.cluster for d in decisions.values() if d.cluster is not None}
    leaders = {d.by: d.cluster for d in decisions.values() if None not in (d.by, d.cluster)}
    return {i: k for i, k in (leaders | found).items() if i is not None and k is not None}


def _colour(cluster: int | None) -> str:
    return "white" if cluster is None else COLOURS[cluster % len(COLOURS)]


def _what(state: TraceState, decision: Decision | None, answer: str | None, colour: str) -> Text:
    """What a trace is at, or what became of it."""
    if state.status is Status.STOPPED:
        return Text("stopped" if decision is None else f"stopped: {reason(decision)}", style=colour)
    if state.status is Status.FAILED:
        return Text("failed", style="bold red")
    if state.status is Status.FINISHED:
        return Text("no answer" if answer is None else f"= {plain(answer)}", style="bold")
    return Text(plain(state.tail)[-60:], style="dim")


def reason(decision: Decision) -> str:
    """Why a trace was stopped, in words: ``redundant, like 3 (0.81)``."""
    words = decision.reason.value.replace("_", " ")
    if decision.by is not None:
        words += f", like {decision.by}"
    return words if decision.score is None else f"{words} ({decision.score:.2f})"


def _interesting(
    states: Sequence[TraceState],
    decisions: Mapping[int, Decision],
    answers: Mapping[int, str | None],
    height: int,
) -> list[int]:
    """The traces worth a row, in their order.

    First those that others are like, then the first with each answer, those that run, the stopped
    ones, the rest.
    """
    if len(states) <= height:
        return list(range(len(states)))
    leaders = {d.by for d in decisions.values()}
    first: dict[str, int] = {}
    for i, answer in answers.items():
        if answer is not None:
            first.setdefault(answer, i)
    voices = set(first.values())

    def rank(i: int) -> int:
        told = (i in leaders, i in voices, states[i].status is Status.RUNNING, i in decisions, True)
        return told.index(True)

    return sorted(sorted(range(len(states)), key=rank)[: height - 1])


def _footer(
    live: LiveQuestion,
    states: Sequence[TraceState],
    votes: Sequence[tuple[str, float]],
    saving: Saving | None,
    seconds: float,
) -> list[str]:
    said = said_votes(votes)
    counts = Counter(state.status.value for state in states)
    status = ", ".join(f"{counts[s.value]} {s.value}" for s in Status if counts[s.value])
    tokens = sum(state.n_tokens for state in states)
    judge = f"{live.judge_scores:,} scores, {live.judge_seconds:.1f} s"
    return [
        f"vote    {said or 'nobody yet'}",
        f"traces  {status or 'none yet'} of {live.n_traces}; {tokens:,} tokens, {said_of(saving)}",
        f"judge   {judge}; {seconds:.1f} s in all",
    ]


def said_fallback(reason: str) -> str:
    """That the judge was given up, and why."""
    return f"unpruned, all traces vote: {plain(reason)}"


def weights_of(row: LiveResult) -> list[tuple[str, float]]:
    """The answers of a decided question with their weights in the vote, the heaviest first."""
    return [(w["answer"] or "?", w["weight"]) for w in row["weights"]]


def said_votes(votes: Sequence[tuple[str, float]]) -> str:
    """Votes in words: ``42 x5, 41 x1``."""
    return ", ".join(f"{plain(answer)} x{weight:g}" for answer, weight in votes[:_FEW])


def said_of(saving: Saving | None) -> str:
    """A saving in words."""
    if saving is None:
        return "no estimate of the saving yet"
    net = "" if saving.net is None else f", {100 * saving.net:.0f} % net"
    return f"estimated saving {100 * saving.gross:.0f} % gross{net}"


def _saving_of(row: LiveResult) -> Saving | None:
    if row["saving_estimated"] is None:
        return None
    return Saving(
        row["tokens_unpruned_estimated"],
        row["saving_estimated"],
        row["net_saving_estimated"],
        row["flops_unpruned_estimated"],
    )


@dataclass
class ProgressLines(Watcher):
    """The same in lines, for what is no terminal: a line a checkpoint, a line a decision's kind.

    Attributes:
        title: What prunes.
        n_questions: How many questions there will be.
    """

    title: str
    n_questions: int
    _n_done: int = 0

    def __enter__(self) -> ProgressLines:
        print(plain(self.title))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def on_question_start(self, live: LiveQuestion) -> None:
        """The question."""
        self._stopped: Counter[str] = Counter()
        print(f"{plain(live.question.text)[:160]}", flush=True)

    def on_checkpoint(self, live: LiveQuestion, step: Step, seen: Observation) -> None:
        """How far the traces are."""
        self._say_stopped()
        votes = said_votes(live.vote())
        print(
            f"  {live.seconds:6.1f} s  {len(seen.n_tokens)} traces, {seen.is_finished.sum()} "
            f"finished, {seen.n_tokens.sum():,} tokens{'; vote ' * bool(votes)}{votes}",
            flush=True,
        )

    def on_decision(self, live: LiveQuestion, decision: Decision) -> None:
        """Counted, told at the next checkpoint."""
        self._stopped[decision.reason.value.replace("_", " ")] += 1

    def on_fallback(self, live: LiveQuestion, reason: str) -> None:
        """Why nothing is pruned any more."""
        self._say_stopped()
        print(f"  {said_fallback(reason)}", flush=True)

    def on_question_end(self, live: LiveQuestion, row: LiveResult) -> None:
        """What came out."""
        self._say_stopped()
        self._n_done += 1
        if row["status"] != "ok":
            print(f"  {row['status']}: {plain(row['reason'])}")
        else:
            answer = "no answer" if row["answer"] is None else f"= {plain(row['answer'])}"
            failed = f", {row['n_failed']} traces failed" if row["n_failed"] else ""
            print(
                f"  {row['seconds']:6.1f} s  {answer} by {said_votes(weights_of(row)) or 'nobody'};"
                f" {row['tokens']:,} tokens, {said_of(_saving_of(row))}{failed}"
            )
        if self.n_questions > 1:
            print(f"{self._n_done} of {self.n_questions} questions", flush=True)

    def _say_stopped(self) -> None:
        if self._stopped:
            said = ", ".join(f"{n} {why}" for why, n in self._stopped.most_common())
            print(f"          stopped {self._stopped.total()}: {said}")
            self._stopped.clear()
