"""Command line: ``deepprune COMMAND``, see `HELP`.

``train.py`` at the top of the repository is the second. A bad input ends in one line and exit code
2, whatever else goes wrong in a traceback and 1.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import traceback
from argparse import ArgumentError, ArgumentParser
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from deepprune import __version__
from deepprune.commands.interrupts import Interrupts, Terminated, exit_code
from deepprune.core.errors import InputError

HELP = """deepprune: train and measure judges that stop redundant chains of thought

  deepprune train         train a judge, then sweep pruning policies with it (python train.py)
  deepprune evaluate      sweep pruning policies over recorded traces with any judge
  deepprune prune         prune questions while their traces are generated: "What is 12*13?"
  deepprune collect       generate traces of a model for a set of questions
  deepprune judge-report  compare trained judges with baselines: runs/DIR traces=A,B,C
  deepprune report        table and page of a run, or of many compared: runs/A runs/B
  deepprune traces        import, show and check stores of traces
  deepprune push          upload a trained judge to Hugging Face's hub: runs/DIR USER/NAME
  deepprune doctor        what can run here and what is missing; check a GPU, time an engine
  deepprune completion    tab completion: eval "$(deepprune completion bash)" (or zsh, fish)

Each has --help; the first five take Hydra overrides, e.g. loss=bce sweep.thresholds=[0.3,0.5].
A value that Hydra's grammar refuses is read as typed: judge.path=runs/lr=0.1/judge.
"""

SINGLE_RUNS = {
    "collect": "collect fills one store",
    "judge-report": "judge-report is one run of all judges and traces",
    "prune": "prune is one live run; deepprune evaluate compares policies",
}
"""Commands without a multirun, and why."""

_FLAG = re.compile(r"-[A-Za-z]|--([a-z][a-z-]*(=.*)?)?")


def main(argv: Sequence[str] | None = None) -> None:
    """Console script ``deepprune``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments else "--help"
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
    elif command in ("-V", "--version", "version"):
        print(f"deepprune {__version__}")
    elif command == "traces":
        from deepprune.commands.traces import main as traces

        sys.exit(_guarded(lambda: traces(arguments)))
    elif command == "report":
        from deepprune.commands.report import main as report

        sys.exit(_guarded(lambda: report(arguments)))
    elif command == "doctor":
        from deepprune.commands.doctor import main as doctor

        sys.exit(_guarded(lambda: doctor(arguments, _timed_engine)))
    elif command == "push":
        from deepprune.commands.push import main as push

        sys.exit(_guarded(lambda: push(arguments)))
    elif command == "completion":
        sys.exit(_guarded(lambda: _completion(arguments)))
    elif command in ("train", "evaluate"):
        run_hydra(command, arguments, f"deepprune {command}")
    elif command in SINGLE_RUNS:
        name = command.replace("-", "_")
        sys.exit(_guarded(lambda: _run_once(command, name, arguments), name))
    else:
        from deepprune.config.completion import COMMANDS

        near = get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        message = f"unknown command {command!r}; {hint}The commands are {', '.join(COMMANDS)}."
        sys.exit(_fail(message))


def _timed_engine(words: Sequence[str]) -> Any:
    """Make the engine of ``doctor --engine`` from options of ``prune``."""
    from deepprune.config.build import generator_sizes
    from deepprune.config.build_live import live_engine
    from deepprune.config.schemas import check_ranges

    config = composed("prune", ["engine=vllm", *words])
    check_ranges(config)
    return live_engine(config), generator_sizes(config)


def _completion(arguments: Sequence[str]) -> None:
    """Print a shell's script, or for that script the words that can follow."""
    from deepprune.config.completion import SCRIPTS, complete, script
    from deepprune.config.schemas import register

    if len(arguments) == 2 and arguments[0] == "--line":
        register()
        print(*complete(arguments[1], config_folder()), sep="\n")
    elif len(arguments) == 1 and arguments[0] in SCRIPTS:
        print(script(arguments[0]), end="")
    else:
        raise InputError(
            f"completion needs a shell ({', '.join(SCRIPTS)}), as in "
            'eval "$(deepprune completion bash)".'
        )


def _run_once(command: str, name: str, arguments: Sequence[str]) -> None:
    """Run a command that has no multirun, composed by Hydra's compose API."""
    if {"-h", "--help"} & set(arguments):
        _print_help(name, f"deepprune {command}")
        return
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--cfg", "-c", choices=("job",))
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("words", nargs="*")
    text = [a for a in arguments if a.startswith("-") and not _FLAG.fullmatch(a)]  # -3 + 5
    flags = [argument for argument in arguments if argument not in text]
    try:
        given, unknown = parser.parse_known_intermixed_args(flags)
    except ArgumentError as error:
        raise InputError(f"{error}.") from None
    if given.multirun or "hydra.mode=MULTIRUN" in given.words:
        raise InputError(f"{SINGLE_RUNS[command]}: leave -m out.")
    if unknown:
        raise InputError(f"{unknown[0]} is no flag of deepprune {command}: see --help.")
    words, question = [*given.words, *text], None
    if command == "judge-report":
        words = _judge_overrides(words)
    elif command == "prune":
        if any(word.startswith("point") for word in words):
            from deepprune.config.point import point_overrides  # needs half a second

            words = point_overrides(words)
        words, question = _question_apart(words)
    if given.config_dir is not None:
        words.append(f"hydra.searchpath=[file://{Path(given.config_dir).absolute()}]")
    config = composed(name, words)
    if question is not None:
        config.question = _literal(question)  # free text, which Hydra's grammar need not read
    if given.cfg:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(config, resolve=given.resolve), end="")
        return
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import configure_log

    from deepprune.config.schemas import check_ranges

    check_ranges(config)
    hydra: Any = HydraConfig.get()
    Path(hydra.runtime.output_dir).mkdir(parents=True, exist_ok=True)
    configure_log(hydra.job_logging)
    with Interrupts():
        run_job(name, config)


def composed(name: str, overrides: Sequence[str]) -> Any:
    """Compose the configuration of a single run, and tell Hydra's parts of it as `hydra.main` does.

    `HydraConfig` then has the run folder.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict

    from deepprune.config.overrides import as_typed
    from deepprune.config.schemas import register

    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3", job_name=name):
        config = compose(name, [*map(as_typed, overrides)], return_hydra_config=True)
    with open_dict(config):
        folder = Path(config.hydra.run.dir).absolute()
        config.hydra.runtime.output_dir = str(folder)
        OmegaConf.resolve(config.hydra)  # the job's log is named after the folder
        HydraConfig.instance().set_config(config)
        del config["hydra"]
    return config


def _judge_overrides(words: Sequence[str]) -> list[str]:
    """Return the words of ``judge-report`` as overrides: paths are judges, traces a list."""
    from deepprune.config.overrides import list_of

    others = [w for w in words if _is_option(w, "judge_report") and not Path(w).is_dir()]
    judges = [word for word in words if word not in others]
    for i, word in enumerate(others):
        name, _, value = word.partition("=")
        if name == "traces" and not value.startswith("["):
            others[i] = f"traces={list_of([value] if Path(value).exists() else value.split(','))}"
    return [*others, f"judges={list_of(judges)}"] if judges else others


def _question_apart(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the overrides of ``prune``, and the question that its other word stands for.

    Raises:
        InputError: If there are several, or the question cannot be read.
    """
    questions = [word for word in words if not _is_option(word, "prune")]
    if len(questions) > 1:
        raise InputError(
            f"prune takes one question, got {len(questions)} arguments ({questions[0]!r}, "
            f"{questions[1]!r}): put it in quotes, or give a set with questions=NAME."
        )
    question = _read_question(questions[0]) if questions else None
    return [word for word in words if word not in questions], question


def _is_option(word: str, name: str) -> bool:
    """Return whether a word is an override of Hydra: not ``x=3, find 2x``, ``求x=2`` or a path.

    A misspelt override is one as well, if it has no space, and no slash in its name.
    """
    override = re.match(r"(?:[+]{1,2}|~)?([A-Za-z_]\w*)([\w./@:-]*)(=|$)", word, re.ASCII)
    if override is None or not (override[3] or word.startswith("~")):
        return False
    from deepprune.config.schemas import COMMANDS, RULES

    is_known = override[1] in {"hydra", *RULES[COMMANDS[name]]}
    return is_known or not (" " in word or "/" in override[2])


def _read_question(argument: str) -> str:
    """Return the question that an argument gives: standard input, a file, or the text itself."""
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
    """Escape ``${`` so that OmegaConf does not interpolate it."""
    return re.sub(r"(\\*)\$\{", lambda m: rf"{m[1] * 2}\${{", text)


def _print_help(name: str, usage: str) -> None:
    from deepprune.config.help import help_text

    print(help_text(name, usage, config_folder()), end="")


def run_hydra(name: str, arguments: Sequence[str], usage: str) -> None:
    """Run ``train`` or ``evaluate`` by `hydra.main`, and exit.

    Multiruns, launchers, sweepers and Hydra's callbacks exist only there.
    """
    if {"-h", "--help"} & set(arguments):
        _print_help(name, usage)
        return
    import hydra

    from deepprune.config.agent import agent_overrides, is_agent
    from deepprune.config.overrides import as_typed
    from deepprune.config.schemas import register

    if is_agent():
        try:
            arguments = agent_overrides(arguments)
        except InputError as error:
            sys.exit(_fail(str(error)))
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, and end in `_guarded`
    # `hydra.main` reads the arguments there; Lightning starts the other ranks of DDP by its first.
    sys.argv = [sys.argv[0], *map(as_typed, arguments)]

    raised: list[Exception] = []
    preemptible: list[bool] = []

    def task(config: Any) -> float | None:
        from deepprune.cli import run_job  # a launcher may call this in another process

        preemptible.append(bool((config.logger or {}).get("preemptible")))
        try:
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

    code = _guarded(run, name)
    if is_agent() and code == exit_code(Terminated()) and not any(preemptible):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the agent counts 143 as a failure
        os.kill(os.getpid(), signal.SIGTERM)
    sys.exit(code)


def run_job(name: str, config: Any) -> float | None:
    """Run one job of the Hydra application ``name``; return the objective of a sweeper.

    If a job of a multirun fails, its folder gets a ``failure.json`` with the reason, the other jobs
    run, and the multirun ends with that exit code, see `MultirunTable`.
    """
    from importlib import import_module

    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from deepprune.config.schemas import check_ranges
    from deepprune.core.files import write_atomic
    from deepprune.core.progress import quieten_libraries
    from deepprune.core.provenance import FAILURE

    hydra = HydraConfig.get()
    is_multirun = hydra.mode == RunMode.MULTIRUN
    failure = Path(hydra.runtime.output_dir) / FAILURE
    failure.unlink(missing_ok=True)
    quieten_libraries()
    try:
        check_ranges(config)
        plan = _plan(name, config)
        run = getattr(import_module(f"deepprune.commands.{name}"), name)(plan)
    except Exception as error:
        if not is_multirun:
            raise
        if (line := _fixable(error, name)) is None:
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


def _plan(name: str, config: Any) -> Any:
    """Turn a configuration into the plan of its command; nothing below sees the configuration."""
    from importlib import import_module

    module = "build_live" if name in ("collect", "prune") else "build"
    return getattr(import_module(f"deepprune.config.{module}"), name)(config)


def config_folder() -> Path:
    """Return the folder of YAML files: `conf/` of the repository, or of the installed package."""
    package = Path(__file__).parent
    repository = package.parent / "conf"
    return repository if repository.is_dir() else package / "conf"


def _guarded(action: Callable[[], int | None], application: str | None = None) -> int:
    """Run; turn errors that the user can fix into one line and exit code 2."""
    try:
        code = action() or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as interrupt:
        said = str(interrupt) or (
            "interrupted; the same command with the same hydra.run.dir (of a multirun: "
            "hydra.sweep.dir) resumes"
        )
        print(f"\n{said}", file=sys.stderr)
        return exit_code(interrupt)
    except BrokenPipeError:  # the reader has gone, as in `| head -1`: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if (line := _fixable(error, application)) is None:
            raise
        return _fail(line)


def _fixable(error: Exception, application: str | None) -> str | None:
    """Return the message for an error that the user can fix; ``None`` for any other."""
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
    run_hydra("train", sys.argv[1:], "python train.py")


if __name__ == "__main__":
    main()
