"""The record of a live run: what two starts that were cut leave of one question."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from builders import group

from deepprune.core.errors import InputError
from deepprune.core.types import ForcedAnswer, Question
from deepprune.generation.backend import PromptFormat, Sampling
from deepprune.generation.live import LiveEngine
from deepprune.generation.scripted import ScriptedBackend
from deepprune.live.pruner import Pruned
from deepprune.live.record import UNDECIDED, LiveRecord
from deepprune.traces import TraceStore


def test_answers_of_two_starts_are_classed_together(tmp_path):
    script = group(["1", "2"])
    engine = LiveEngine(ScriptedBackend([script]), PromptFormat(), Sampling(100))
    record = LiveRecord(tmp_path, engine, [script.question])
    row = {"dataset": "toy", "question_id": "q", "model": "tiny", "status": "failed"}
    for answers, forced in ((["1", "2"], "4"), (["2.0", "3"], "4")):
        traces = [
            replace(t, answer=a, answer_class=i, forced_answers=(ForcedAnswer(3, forced, 2),))
            for i, (t, a) in enumerate(zip(script.traces, answers, strict=True))
        ]
        record.write(Pruned(row, tuple(traces), live=None))
    engine.close()
    (found,) = TraceStore.open(tmp_path / UNDECIDED).load()
    assert [t.sample_id for t in found.traces] == [0, 1, 2, 3]
    assert [t.answer_class for t in found.traces] == [0, 1, 1, 3]
    assert {t.forced_answers[0].answer_class for t in found.traces} == {2}


def test_rows_of_version_0_1_are_read(tmp_path):
    old = Path(__file__).parents[1] / "old/prune/results.jsonl"
    shutil.copy(old, tmp_path)
    facts = [json.loads(line) for line in old.read_text().splitlines()]
    questions = [Question(row["dataset"], row["question_id"], row["question"]) for row in facts]
    record = LiveRecord(tmp_path, None, questions)
    assert [row["tokens_forced"] for row in record.rows] == [r["tokens_probes"] for r in facts]
    record.check_model(facts[0]["model"])
    with pytest.raises(InputError, match="but the engine serves 'other'"):
        record.check_model("other")
