"""The command line: ``deepprune <train|evaluate|traces>``.

``train`` and ``evaluate`` are Hydra applications; ``train.py`` at the top of the repository is the
former. A bad input ends in one line and exit code 2, whatever else goes wrong in a traceback and 1.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from deepprune.errors import InputError

HELP = """deepprune: train and measure judges that stop redundant chains of thought

  deepprune train     train a judge, then sweep pruning policies with it (python train.py)
  deepprune evaluate  sweep pruning policies over recorded traces with any judge
  deepprune traces    import, show and check stores of traces

Each has --help; train and evaluate take Hydra overrides, e.g. loss=bce sweep.thresholds=[0.3,0.5].
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Console script ``deepprune``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments else "--help"
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
    elif command == "traces":
        from deepprune.traces.cli import main as traces

        sys.exit(_guarded(lambda: traces(arguments)))
    elif command in ("train", "evaluate"):
        sys.argv = [f"deepprune {command}", *arguments]
        run_application(command)
    else:
        near = get_close_matches(command, ("train", "evaluate", "traces"), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        message = f"unknown command {command!r}; {hint}The commands are train, evaluate, traces."
        sys.exit(_fail(message))


def run_application(name: str) -> None:
    """Run the Hydra application ``name`` on ``sys.argv`` and exit."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        from deepprune.config.help import help_text

        usage = "python train.py" if sys.argv[0].endswith("train.py") else sys.argv[0]
        print(help_text(name, usage, config_folder()), end="")
        return
    import hydra

    from deepprune.config.schemas import register

    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, and end in `_guarded`
    codes: list[int] = []

    def task(config: Any) -> Any:
        """One job; in a multirun the others go on when one fails."""
        objective: list[Any] = [None]

        def job() -> int:
            from importlib import import_module  # torch comes with it: only now

            run = getattr(import_module(f"deepprune.commands.{name}"), name)(config)
            objective[0] = run.objective
            return int(run.status != "ok")

        try:
            codes.append(_guarded(job, name))
        except Exception:
            if "--multirun" not in sys.argv and "-m" not in sys.argv:
                raise
            traceback.print_exc()
            codes.append(1)
        return objective[0]

    task.__module__ = name  # Hydra names the job after it
    application = hydra.main(
        version_base="1.3", config_path=str(config_folder()), config_name=name
    )(task)
    code = _guarded(application, name)
    sys.exit(max([code, *codes]))


def config_folder() -> Path:
    """Where the YAML files are: `conf/` of the repository, or of the installed package."""
    package = Path(__file__).parent
    repository = package.parent / "conf"
    return repository if repository.is_dir() else package / "conf"


def _guarded(action: Callable[[], int | None], application: str | None = None) -> int:
    """Run; turn what the user can mend into one line and exit code 2."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return action() or 0
    except InputError as error:
        return _fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        from deepprune.config.advice import advise

        return _fail(advise(error, application, config_folder()))
    except KeyboardInterrupt:
        print(
            "\ninterrupted; the same command with the same hydra.run.dir goes on", file=sys.stderr
        )
        return 130


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def train() -> None:
    """Entry point of ``train.py``."""
    run_application("train")


if __name__ == "__main__":
    main()
