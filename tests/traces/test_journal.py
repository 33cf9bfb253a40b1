"""The journal of finished traces: what is in it after a crash, a full disk, an edit."""

import json
import os
import resource
from dataclasses import replace

import pytest
from builders import group

from deepprune.core.errors import InputError
from deepprune.core.types import NO_ANSWER, FinishReason, ForcedAnswer
from deepprune.traces.journal import TraceJournal


def finished(n=3, name="q"):
    """Traces as an engine gives them: answers are not classed yet."""
    return [
        replace(t, answer_class=NO_ANSWER, is_correct=None)
        for t in group(["a"] * n, name=name).traces
    ]


def test_what_was_appended_is_read_back_whole(tmp_path):
    one, *_ = finished()
    full = replace(
        one,
        text="½ \U0001f600\u2028 \x85 ok",
        token_end=[1, 4, 7],
        n_tokens=3,
        finish_reason=FinishReason.LENGTH,
        seed=7,
        token_confidence=[0.1, 1 / 3, 12.0],
        forced_answers=(ForcedAnswer(1, None), ForcedAnswer(2, "a")),
    )
    with TraceJournal(tmp_path / "j") as journal:
        journal.append([full, *finished(name="r")])
    with TraceJournal(tmp_path / "j") as journal:
        assert journal.traces == [full, *finished(name="r")]
        read = journal.traces[0]
    assert (read.token_end, read.token_confidence) == ([1, 4, 7], [0.1, 1 / 3, 12.0])


@pytest.mark.parametrize("torn", [b'{"dataset": "to', b"\0" * 20, b"{"])
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    first, second, third = finished()
    with TraceJournal(tmp_path / "j") as journal:
        journal.append([first, second])
    sound = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(sound + torn)
    with TraceJournal(tmp_path / "j") as journal:
        assert journal.traces == [first, second]
        assert (tmp_path / "j").read_bytes() == sound
        journal.append([third])
    with TraceJournal(tmp_path / "j") as journal:
        assert journal.traces == [first, second, third]


def test_stored_traces_are_dropped_and_others_stay(tmp_path):
    with TraceJournal(tmp_path / "j") as journal:
        journal.append([*finished(name="q"), *finished(name="r")])
        journal.drop(finished(name="q"))
        journal.append(finished(name="s"))
    with TraceJournal(tmp_path / "j") as journal:
        assert journal.traces == [*finished(name="r"), *finished(name="s")]


def test_lines_that_stay_are_copied_as_they_are(tmp_path):
    with TraceJournal(tmp_path / "j") as journal:
        journal.append(finished(name="½"))
    lines = [  # as another version may write them
        json.dumps(json.loads(line), ensure_ascii=False, indent=None).replace(":", " :").encode()
        for line in (tmp_path / "j").read_bytes().splitlines()
    ]
    (tmp_path / "j").write_bytes(b"\n".join(lines) + b"\n")
    with TraceJournal(tmp_path / "j") as journal:
        journal.append(finished(name="r"))
        journal.drop([finished(name="½")[1], *finished(name="r")[:2]])
        journal.drop([finished(name="½")[0]])
    assert (tmp_path / "j").read_bytes().splitlines()[0] == lines[2]
    with TraceJournal(tmp_path / "j") as journal:
        assert [(t.question.question_id, t.sample_id) for t in journal.traces] == [
            ("½", 2),
            ("r", 2),
        ]


def test_an_interrupt_after_the_renaming_loses_no_later_trace(tmp_path, monkeypatch):
    def interrupted(folder):
        raise KeyboardInterrupt

    with TraceJournal(tmp_path / "j") as journal:
        journal.append(finished(name="q"))
        monkeypatch.setattr("deepprune.core.files.sync_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.drop(finished(name="q"))
        monkeypatch.undo()
        journal.append(finished(name="r"))
    with TraceJournal(tmp_path / "j") as journal:
        assert journal.traces == finished(name="r")


def test_an_edited_line_is_named(tmp_path):
    with TraceJournal(tmp_path / "j") as journal:
        journal.append(finished())
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    (tmp_path / "j").write_bytes(lines[0] + b'{"dataset": "x"}\n' + lines[2])
    with pytest.raises(InputError, match=r"line 2 of .* is not a trace"):
        TraceJournal(tmp_path / "j")


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
def test_a_disk_that_is_full_leaves_the_file_as_it_was(tmp_path):
    first, second, third = finished()
    with TraceJournal(tmp_path / "j") as journal:
        journal.append([first])
        sound = (tmp_path / "j").read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(sound) + 100, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                journal.append([second, third])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (tmp_path / "j").read_bytes() == sound
        journal.append([third])
        assert journal.traces == [first, third]
