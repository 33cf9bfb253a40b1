"""What a fixed set of small commands gives, recorded in ``tests/recorded``.

`test_recorded_results` compares. A change that moves a figure on purpose records anew, in its own
commit, and says there what moved and why:

    python tests/recorded_results.py            # record all
    python tests/recorded_results.py evaluate   # record one
"""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

RECORDED = Path(__file__).with_name("recorded")
SIZE = "generator={params: 1e6, layers: 2, hidden: 8}"
SMALL = ["sweep.traces=6", "sweep.questions=4", "sweep.resamples=2", "logger=none"]
FIT = [
    *SMALL, "experiment=none", "trainer.max_steps=4", "data.pairs_per_question=8",
    "data.eval_pairs_per_question=20",
]  # fmt: skip
CLOCKS = {"seconds", "judge_seconds", "path", "fingerprint"}
"""Facts that differ from run to run."""


class Runner:
    """Runs commands in one folder; what one leaves there the next can use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "offline",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "deepprune.cli", *arguments],
            cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __call__(self, name: str, *arguments: str) -> Path:
        """The run folder of a command that must succeed."""
        process = self.start(*arguments, f"hydra.run.dir={name}")
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return self.folder / name


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def forced_answers(folder: Path) -> str:
    """A file of answers and forced answers without text, as Parallel-Probe records them."""
    rng = random.Random(0)
    questions = []
    for number in range(16):
        branches = []
        for _ in range(8):
            final = rng.choice(["1", "1", "2", "3"])
            n = rng.randint(3, 9)
            forced = [rng.choice([final, final, "1", "2", ""]) for _ in range(n - 1)] + [final]
            branches.append([forced, 500 * n - rng.randint(0, 400), final])
        questions.append(
            {
                "question": f"How many are {number} and so on?",
                "gold_answer": "1",
                "probe_freq": 500,
                "each_branch": branches,
            }
        )
    (folder / "forced.json").write_text(json.dumps(questions))
    return "forced.json"


def evaluate(run: Runner) -> object:
    folder = run(
        "all", "evaluate", "pruning=all", "sweep.traces=8", "sweep.questions=12",
        "sweep.resamples=2", "logger=none",
    )  # fmt: skip
    return lines(folder / "results.jsonl")


def evaluate_forced(run: Runner) -> object:
    """The policies that read forced answers, on traces without text."""
    folder = run(
        "forced", "evaluate", f"traces={forced_answers(run.folder)}", "pruning=all",
        "sweep.resamples=2", "logger=none", SIZE,
    )  # fmt: skip
    return lines(folder / "results.jsonl")


def resumed(run: Runner) -> object:
    """A sweep that is killed after its first question and started again."""
    arguments = [
        "evaluate", "sweep.traces=6", "sweep.questions=30", "sweep.resamples=10", "logger=none",
        "distributed.n=1", "hydra.run.dir=cut",
    ]  # fmt: skip
    process = run.start(*arguments)
    outcomes = run.folder / "cut" / "outcomes"
    while process.poll() is None and not list(outcomes.glob("*.npz")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return lines(run("cut", *arguments[:-1]) / "results.jsonl")


def trained(*arguments: str) -> Callable[[Runner], object]:
    return lambda run: _report_and_rows(run("trained", "train", *arguments, *FIT))


def _report_and_rows(folder: Path) -> object:
    return {
        "report": json.loads((folder / "judge_report.json").read_text()),
        "rows": lines(folder / "results.jsonl"),
    }


def cascade(run: Runner) -> object:
    expensive = run("expensive", "train", "model=linear", "sweep=none", *FIT)
    folder = run(
        "cascade", "evaluate", "judge=cascade", f"judge.expensive={expensive}/judge", *SMALL
    )
    return {
        "band": json.loads((folder / "band.json").read_text()),
        "rows": lines(folder / "results.jsonl"),
    }


def train_forced(run: Runner) -> object:
    """A judge of forced answers."""
    traces = forced_answers(run.folder)
    return _report_and_rows(
        run(
            "forced",
            "train",
            "model=linear",
            "model.groups=[forced_answers]",
            f"traces={traces}",
            SIZE,
            "prefix.k=1500",
            *FIT,
        )
    )


def judge_report(run: Runner) -> object:
    judge = run("reported", "train", "model=linear", "sweep=none", *FIT)
    folder = run(
        "report", "judge-report", str(judge), "traces=pool", "data.eval_pairs_per_question=10",
        "baselines=[question_only,length_only,lexical]", "logger=none",
    )  # fmt: skip
    return lines(folder / "matrix.jsonl")


def live(run: Runner) -> object:
    """A live run, and a replay of its recording."""
    prune = ["questions.limit=3", "prune.traces=4", "prefix.k=16", "threshold=0.1", "logger=none"]
    first = run(
        "live",
        "prune",
        "questions=traces",
        "engine.seconds_per_token=0.0005",
        "live.mode=resubmit",
        *prune,
    )
    again = run(
        "again", "prune", "engine=replay", "engine.shuffle=false", f"traces={first}/traces",
        *prune[1:],
    )  # fmt: skip
    return {"live": lines(first / "results.jsonl"), "replay": lines(again / "results.jsonl")}


COMMANDS = {
    "evaluate": evaluate,
    "evaluate_forced": evaluate_forced,
    "resumed": resumed,
    "train_minilm": trained("model=minilm"),
    "train_linear": trained("model=linear", "model.groups=[overlaps,lengths,peers]"),
    "cascade": cascade,
    "train_forced": train_forced,
    "judge_report": judge_report,
    "live": live,
}
TRAINED_WEIGHTS = {"train_minilm", "train_linear", "train_forced", "cascade", "judge_report"}
"""Their weights come from torch, whose sums depend on the processor: figures agree to .01."""


def simplified(value: object) -> object:
    """The value as JSON has it, without clocks; floats to 9 significant digits."""
    if isinstance(value, dict):
        return {k: simplified(v) for k, v in sorted(value.items()) if k not in CLOCKS}
    if isinstance(value, list):
        return [simplified(v) for v in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.9g}")
    return value


def differences(found: object, recorded: object, tolerance: float, where: str = "") -> list[str]:
    """Where two results differ: floats by more than ``tolerance``, relative above 1."""
    if isinstance(found, dict) and isinstance(recorded, dict):
        told = [f"{where}/{k} is missing" for k in sorted(recorded.keys() - found.keys())]
        told += [f"{where}/{k} is new" for k in sorted(found.keys() - recorded.keys())]
        for key in sorted(found.keys() & recorded.keys()):
            told += differences(found[key], recorded[key], tolerance, f"{where}/{key}")
        return told
    if isinstance(found, list) and isinstance(recorded, list):
        if len(found) != len(recorded):
            return [f"{where} has {len(found)} entries, recorded are {len(recorded)}"]
        pairs = enumerate(zip(found, recorded, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, tolerance, f"{where}[{i}]")]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (found, recorded))
    if numbers and abs(found - recorded) <= tolerance * max(1.0, abs(recorded)):
        return []
    return [] if found == recorded else [f"{where} is {found!r}, recorded is {recorded!r}"]


def main() -> None:
    import tempfile

    for name in sys.argv[1:] or COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            result = simplified(COMMANDS[name](Runner(Path(folder))))
        RECORDED.mkdir(exist_ok=True)
        (RECORDED / f"{name}.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")
        print(f"recorded {name}")


if __name__ == "__main__":
    main()
