"""The command line: ``deepprune <collect|train|evaluate|prune|judge-report|traces>``.

All but ``traces`` are Hydra applications; ``train.py`` at the top of the repository is the first. A
bad input ends in one line and exit code 2, whatever else goes wrong in a traceback and 1.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from deepprune.commands.interrupts import Interrupts, exit_code
from deepprune.core.errors import InputError

HELP = """deepprune: train and measure judges that stop redundant chains of thought

  deepprune train         train a judge, then sweep pruning policies with it (python train.py)
  deepprune evaluate      sweep pruning policies over recorded traces with any judge
  deepprune prune         prune questions while their traces are generated: "What is 12*13?"
  deepprune collect       generate traces of a model for a set of questions
  deepprune judge-report  compare trained judges with baselines: runs/DIR traces=A,B,C
  deepprune traces        import, show and check stores of traces

Each has --help; all but traces take Hydra overrides, e.g. loss=bce sweep.thresholds=[0.3,0.5].
"""

VALUED_FLAGS = {
    *("--cfg", "-c", "--info", "-i", "--package", "-p", "--experimental-rerun"),
    *("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
}
"""Hydra's flags that another argument follows."""


SINGLE_RUNS = {
    "collect": "collect fills one store",
    "judge-report": "judge-report is one run of all judges and traces",
    "prune": "prune is one live run; deepprune evaluate compares policies",
}
"""Commands without a multirun, and why."""


def main(argv: Sequence[str] | None = None) -> None:
    """Console script ``deepprune``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments else "--help"
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
    elif command == "traces":
        from deepprune.commands.traces import main as traces

        sys.exit(_guarded(lambda: traces(arguments)))
    elif command in SINGLE_RUNS and {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments):
        sys.exit(_fail(f"{SINGLE_RUNS[command]}: leave -m out."))
    elif command in ("train", "evaluate", "collect"):
        sys.argv = [f"deepprune {command}", *arguments]
        run_application(command)
    elif command == "judge-report":
        sys.argv = [f"deepprune {command}", *_as_overrides(arguments)]
        run_application("judge_report")
    elif command == "prune":
        sys.exit(_guarded(lambda: _prune(arguments)))
    else:
        known = ("collect", "train", "evaluate", "prune", "judge-report", "traces")
        near = get_close_matches(command, known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        message = f"unknown command {command!r}; {hint}The commands are {', '.join(known)}."
        sys.exit(_fail(message))


def _as_overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments of ``judge-report`` as Hydra takes them: paths are judges, traces a list."""
    judges: list[str] = []
    others: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_option = before in VALUED_FLAGS or argument.startswith(("-", "~"))
        is_path = "=" not in argument or Path(argument).is_dir()
        (judges if is_path and not is_option else others).append(argument)
    for i, argument in enumerate(others):
        name, _, value = argument.partition("=")
        if name == "traces" and not value.startswith("["):
            others[i] = f"traces={_list(value.split(','))}"
    return [*others, f"judges={_list(judges)}"] if judges else others


def _prune(arguments: Sequence[str]) -> None:
    """Run ``prune``; an argument that is no option is the question, a file of it, or ``-``."""
    questions: list[str] = []
    others: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_option = before in VALUED_FLAGS or _is_option(argument)
        (others if is_option else questions).append(argument)
    if len(questions) > 1:
        raise InputError(
            f"prune takes one question, got {len(questions)} arguments ({questions[0]!r}, "
            f"{questions[1]!r}): put it in quotes, or give a set with questions=NAME."
        )
    sys.argv = ["deepprune prune", *others]
    texts = {"question": _read_question(questions[0])} if questions else {}
    run_application("prune", texts)


def _is_option(argument: str) -> bool:
    """Whether an argument is a flag or an override of Hydra: not ``-3 + 5`` nor ``x=3, find 2x``.

    A misspelt override is one as well, as long as there is no space in it.
    """
    if re.match(r"-[a-z]|--", argument):
        return True
    override = re.match(r"(?:[+]{1,2}|~)?(\w+)[\w./@:-]*(=|$)", argument)
    if override is None or not (override[2] or argument.startswith("~")):
        return False
    if " " not in argument:
        return True
    text = (config_folder() / "prune.yaml").read_text()
    return override[1] in {"hydra", *re.findall(r"^(?:  - )?(\w+):", text, flags=re.MULTILINE)}


def _read_question(argument: str) -> str:
    """The text that an argument stands for: standard input, a file, or itself."""
    try:
        if argument == "-":
            return sys.stdin.read()
        if argument.startswith("@") or os.path.isfile(argument):
            return Path(argument.removeprefix("@")).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"the question cannot be read from {argument!r}: {said}.") from error
    return argument


def _literal(text: str) -> str:
    """The text as OmegaConf takes it: ``${`` is no interpolation."""
    return re.sub(r"(\\*)\$\{", lambda m: rf"{m[1] * 2}\${{", text)


def _list(values: Sequence[str]) -> str:
    """A list of strings in Hydra's grammar, which reads JSON's."""
    return json.dumps(list(values), ensure_ascii=False)


def run_application(name: str, texts: Mapping[str, str] | None = None) -> None:
    """Run the Hydra application ``name`` on ``sys.argv`` and exit.

    Args:
        name: Of the application.
        texts: Options that are free text, which Hydra's grammar need not read.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        from deepprune.config.help import help_text

        usage = "python train.py" if sys.argv[0].endswith("train.py") else sys.argv[0]
        print(help_text(name, usage, config_folder()), end="")
        return
    import hydra

    from deepprune.config.schemas import register

    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, and end in `_guarded`

    raised: list[Exception] = []

    def task(config: Any) -> float | None:
        from deepprune.cli import run_job  # a launcher may call this in another process

        try:
            for option, text in (texts or {}).items():
                config[option] = _literal(text)
            return run_job(name, config)
        except Exception as error:  # of a single run; Hydra would print its own lines first
            raised.append(error)
            return None

    task.__module__ = name  # Hydra names the job after it
    application = hydra.main(
        version_base="1.3", config_path=str(config_folder()), config_name=name
    )(task)

    def run() -> None:
        with Interrupts():
            try:
                application()
            except KeyboardInterrupt:
                from deepprune.callbacks.multirun_table import show_interrupted

                show_interrupted()
                raise
        if raised:
            raise raised[0]

    sys.exit(_guarded(run, name))


def run_job(name: str, config: Any) -> float | None:
    """One job of the Hydra application ``name``; returns what a sweeper maximises.

    In a multirun the others go on when one fails: its folder then says why in ``failure.json``,
    and the multirun ends with its exit code, see `MultirunTable`.
    """
    from importlib import import_module  # torch comes with it: only now

    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from deepprune.config.schemas import check_ranges
    from deepprune.core.files import write_atomic
    from deepprune.core.provenance import FAILURE

    hydra = HydraConfig.get()
    is_multirun = hydra.mode == RunMode.MULTIRUN
    failure = Path(hydra.runtime.output_dir) / FAILURE
    failure.unlink(missing_ok=True)
    try:
        check_ranges(config)
        run = getattr(import_module(f"deepprune.commands.{name}"), name)(config)
    except Exception as error:
        if not is_multirun:
            raise
        if (line := _mendable(error, name)) is None:
            traceback.print_exc()
        facts = {
            "exit_code": 1 if line is None else _fail(line),
            "reason": line or f"{type(error).__name__}: {error}",
        }
        write_atomic(failure, json.dumps(facts))
        return None
    if run.status != "ok" and not is_multirun:
        sys.exit(1)
    objective: float | None = run.objective if run.status == "ok" else None
    return objective


def config_folder() -> Path:
    """Where the YAML files are: `conf/` of the repository, or of the installed package."""
    package = Path(__file__).parent
    repository = package.parent / "conf"
    return repository if repository.is_dir() else package / "conf"


def _guarded(action: Callable[[], int | None], application: str | None = None) -> int:
    """Run; turn what the user can mend into one line and exit code 2."""
    try:
        return action() or 0
    except KeyboardInterrupt as interrupt:
        said = str(interrupt) or (
            "interrupted; the same command with the same hydra.run.dir (of a multirun: "
            "hydra.sweep.dir) resumes"
        )
        print(f"\n{said}", file=sys.stderr)
        return exit_code(interrupt)
    except Exception as error:
        if (line := _mendable(error, application)) is None:
            raise
        return _fail(line)


def _mendable(error: Exception, application: str | None) -> str | None:
    """What to tell of an error that the user can mend; ``None`` for any other."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        from deepprune.config.advice import advise

        return advise(error, application, config_folder())
    return None


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def train() -> None:
    """Entry point of ``train.py``."""
    run_application("train")


if __name__ == "__main__":
    main()
