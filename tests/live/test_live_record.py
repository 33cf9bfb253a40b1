"""The record of a live run: what two starts that were cut leave of one question."""

from dataclasses import replace

from builders import group

from deepprune.core.types import Probe
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
    for answers, probe in ((["1", "2"], "4"), (["2.0", "3"], "4")):
        traces = [
            replace(t, answer=a, answer_class=i, probes=(Probe(3, probe, 2),))
            for i, (t, a) in enumerate(zip(script.traces, answers, strict=True))
        ]
        record.write(Pruned(row, tuple(traces), live=None))
    engine.close()
    (found,) = TraceStore.open(tmp_path / UNDECIDED).load()
    assert [t.sample_id for t in found.traces] == [0, 1, 2, 3]
    assert [t.answer_class for t in found.traces] == [0, 1, 1, 3]
    assert {t.probes[0].answer_class for t in found.traces} == {2}
