"""Evaluator callback: draws accuracy against tokens when the sweep ends."""

from __future__ import annotations

from deepprune.evaluation.callback import EvaluatorCallback, SweepResult
from deepprune.report.figures import accuracy_figure

FIGURE = "accuracy_tokens.png"


class SweepFigure(EvaluatorCallback):
    """Writes ``accuracy_tokens.png`` beside the results."""

    def on_sweep_end(self, result: SweepResult) -> None:
        """Draw."""
        plan = result.plan
        n = len({q.question for q in plan.questions})
        title = f"{n} questions, N = {plan.n_traces} traces, judge: {plan.judge}"
        accuracy_figure(result.rows, plan.folder / FIGURE, title)
