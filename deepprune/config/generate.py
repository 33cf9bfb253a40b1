"""Write `options_table.py` and `docs/options.md` from the constructors that options are for.

``python -m deepprune.config.generate`` after a change of a constructor; a test compares.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from hydra.utils import get_object

from deepprune.core.options import Count, Share, hints_of, parts, range_of

TARGETS = {
    "prefix/first_tokens": "deepprune.data.prefixes.FirstTokens",
    "prefix/reasoning_words": "deepprune.data.prefixes.ReasoningWords",
    "prefix/fraction": "deepprune.data.prefixes.Fraction",
    "model/linear": "deepprune.judge.linear.LinearArchitecture",
    "model/lora": "deepprune.judge.network.backbones.Lora",
    "model/backbone": "deepprune.judge.network.backbones.Backbone",
    "model/encoder": "deepprune.judge.network.encoding.PairEncoder",
    "model/cross_encoder": "deepprune.judge.network.cross_encoder.CrossEncoderArchitecture",
    "loss/focal": "deepprune.judge.network.losses.FocalLoss",
    "loss/bce": "deepprune.judge.network.losses.BCELoss",
    "loss/weighted_bce": "deepprune.judge.network.losses.WeightedBCELoss",
    "loss/ranking": "deepprune.judge.network.losses.RankingLoss",
    "sampler/natural": "deepprune.data.samplers.NaturalSampler",
    "sampler/oversample": "deepprune.data.samplers.OversampleSampler",
    "sampler/balanced": "deepprune.data.samplers.BalancedSampler",
    "sampler/question_balanced": "deepprune.data.samplers.QuestionBalancedSampler",
    "pruning/deepprune": "deepprune.pruning.policies.deepprune.DeepPrune",
    "pruning/representatives": "deepprune.pruning.policies.deepprune.DeepPrune",
    "pruning/deepconf": "deepprune.pruning.policies.deepconf.DeepConf",
    "pruning/deepconf_offline": "deepprune.pruning.policies.deepconf_offline.DeepConfOffline",
    "pruning/slim_sc": "deepprune.pruning.policies.slim_sc.SlimSC",
    "pruning/adaptive_consistency": (
        "deepprune.pruning.policies.adaptive_consistency.AdaptiveConsistency"
    ),
    "pruning/race": "deepprune.pruning.policies.race.Race",
    "pruning/short_m": "deepprune.pruning.policies.short_m.ShortM",
    "pruning/esc": "deepprune.pruning.policies.esc.ESC",
    "pruning/early_exit": "deepprune.pruning.policies.early_exit.EarlyExit",
    "pruning/parallel_probe": "deepprune.pruning.policies.parallel_probe.ParallelProbe",
    "pruning/mars": "deepprune.pruning.policies.mars.MARS",
    "engine/replay": "deepprune.pruning.replay.ReplayEngine",
    "engine/scripted": "deepprune.generation.scripted.scripted",
    "engine/vllm": "deepprune.generation.vllm.VllmBackend",
    "engine/openai": "deepprune.generation.openai.client.OpenAIBackend",
    "prompt/prompt": "deepprune.generation.backend.PromptFormat",
    "sampling/sampling": "deepprune.generation.backend.Sampling",
    "live/live": "deepprune.generation.engine_loop.EngineLoop",
    "questions/columns": "deepprune.generation.questions.Columns",
    "questions/question_file": "deepprune.generation.questions.QuestionFile",
    "questions/hub_questions": "deepprune.generation.questions.HubQuestions",
    "questions/generated_questions": "deepprune.generation.questions.GeneratedQuestions",
    "questions/recorded_questions": "deepprune.generation.questions.RecordedQuestions",
    "generators/size": "deepprune.evaluation.ledger.GeneratorSize",
    "steps/step_times": "deepprune.core.step_times.StepTimes",
    "distributed/processes": "deepprune.evaluation.distributed.Processes",
    "distributed/ray": "deepprune.evaluation.distributed.Ray",
    "judge/lexical": "deepprune.judge.baselines.LexicalJudge",
    "judge/length_only": "deepprune.judge.baselines.LengthOnlyJudge",
    "judge/sentence_embedding": "deepprune.judge.features.embeddings.SentenceEmbeddingJudge",
    "judge/oracle": "deepprune.judge.baselines.OracleJudge",
    "judge/coin": "deepprune.judge.baselines.CoinJudge",
    "judge/noisy_oracle": "deepprune.judge.baselines.NoisyOracleJudge",
    "judge/trained": "deepprune.judge.loading.load_judge",
    "judge/cascade": "deepprune.judge.loading.load_cascade",
    "judge/zero_shot": "deepprune.judge.network.zero_shot.zero_shot_judge",
}
"""The constructor of each choice of a group, and of each part of one."""

NESTED = {"Lora": "model/lora", "Backbone": "model/backbone", "Columns": "questions/columns"}
"""Constructors that are arguments of others."""

FILES = {
    "train": [],
    "evaluate": [],
    "collect": [],
    "prune": [],
    "judge_report": [],
    "data/default": ["data"],
    "sweep/default": ["sweep"],
    "trainer/default": ["trainer"],
}
"""Files of ``conf/`` whose options no constructor describes, and the section that they are in."""

FILE_OF = {
    "sampling/sampling": "sampling/default",
    "questions/generated_questions": "questions/reasoning_gym",
}
"""The file of a choice in ``conf/``, where it is not named after it."""

NOT_OPTIONS = {
    "sampler": {"labels", "groups", "seed", "num_replicas", "rank"},
    "model/encoder": {"tokenizer", "layout", "generative", "texts"},
    "pruning": {"name"},
    "engine/replay": {"group", "prompt_tokens"},
    "steps": {"name"},
    "live": {"backend", "prompt", "sampling"},
}
"""Arguments that code gives, by group or choice."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "model/cross_encoder": {"backbone": {}, "encoder": {}},
    "engine/replay": {"steps": "h100_qwen3_8b"},
    "pruning/deepprune": {"prefix": "${prefix}"},
    "pruning/representatives": {"prefix": "${prefix}", "name": "representatives"},
}
"""Defaults that differ from the constructor's, and arguments of one choice alone."""

_TABLE = '''# mypy: ignore-errors
# ruff: noqa: E501
# fmt: off
"""Name, type, range and default of the groups' options; written by `config.generate`."""

from typing import Annotated, Any, Literal

from deepprune.core.options import Count, Ge, Gt, Le, Lt, Share

TABLE: dict[str, tuple[str, dict[str, tuple[Any, Any]]]] = {{
{rows}}}
"""Of each choice its constructor, and for each option annotation and default; ??? must be given."""
'''

_CONF = Path(__file__).parents[2] / "conf"

_PAGE = """# Options

Written by `python -m deepprune.config.generate`: first the options of the commands, of data, sweep
and trainer, from the files of `conf/`, then those of the groups, from the constructors. An option
of a group is `GROUP.NAME=VALUE`, e.g. `loss.gamma=1`; of a policy `pruning.POLICY.NAME=VALUE`. The
last column is the default: of the choice's file, else of the constructor. Other files of `conf/`
may set another value, as `conf/experiment/demo.yaml` does for plain `python train.py`; `--cfg job`
shows it. Backbone, encoder and columns have the constructor's; the files of `conf/model/` and
`conf/questions/` set their own. Not listed: `model.optimizer`, `model.scheduler` and `model.warmup`
(`conf/model/`), `logger` and `callbacks` (files of the same names).
{tables}"""


def table() -> str:
    """Return the source of `options_table.py`."""
    rows = ""
    for key, dotted in TARGETS.items():
        options = ",\n".join(
            f'        "{name}": ({_source(annotation)}, {_quoted(default)})'
            for name, (annotation, default) in options_of(key).items()
        )
        opening = "\n" if options else ""
        rows += f'    "{key}": ("{dotted}", {{{opening}{options}}}),\n'
    return _TABLE.format(rows=rows)


def page() -> str:
    """Return the text of `docs/options.md`.

    Raises:
        ValueError: If an option has no line in its constructor's docstring.
    """
    tables = ""
    for key, dotted in TARGETS.items():
        if not (found := options_of(key)):
            continue
        meanings, changed = _meanings(get_object(dotted)), _changed_in_file(key)
        tables += f"\n## {key}\n\n| option | type | range | meaning | default |\n"
        tables += "| --- | --- | --- | --- | --- |\n"
        for name, (annotation, default) in found.items():
            if name not in meanings and name != "name":
                raise ValueError(f"{dotted} has no docstring line for {name}")
            meaning = meanings.get(name, "Name in tables.").replace("|", "\\|")
            default = changed.get(name, default)
            shown = "null" if default is None else str(default).replace("\n", "\\n")
            cells = (_type_name(annotation), range_of(annotation), meaning, f"`{shown}`")
            tables += f"| `{name}` | {' | '.join(cells)} |\n"
    return _PAGE.format(tables=_files() + tables)


def _changed_in_file(key: str) -> dict[str, Any]:
    """Return what the file of a choice sets in place of the constructor's defaults."""
    path = _CONF / f"{FILE_OF.get(key, key)}.yaml"
    if not path.exists():
        return {}
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    found: dict[str, Any] = values.get(key.split("/")[1], values)
    return found


def _files() -> str:
    """Return the tables of `FILES`: each option with its default and its comment.

    Raises:
        ValueError: If an option has no comment.
    """
    tables = ""
    for file, section in FILES.items():
        tables += f"\n## {file}.yaml\n\n| option | meaning, unit and range | default |\n"
        tables += "| --- | --- | --- |\n"
        text = (_CONF / f"{file}.yaml").read_text(encoding="utf-8")
        text = re.sub(r"\n +# ", " ", text)  # a comment that goes on
        path: list[str] = []
        for indent, name, value, comment in re.findall(
            r"^( *)(\w+):(?: +([^#\n]*[^#\n ]))?(?: +# (.*))?$", text, flags=re.M
        ):
            path = [*path[: len(indent) // 2], name]
            if path[0] in ("defaults", "hydra", "_target_") or not value:
                continue
            option = ".".join([*section, *path])
            if not comment:
                raise ValueError(f"{option} has no comment in conf/{file}.yaml")
            escaped = comment.replace("|", "\\|")
            tables += f"| `{option}` | {escaped} | `{value}` |\n"
    return tables


def options_of(key: str) -> dict[str, tuple[Any, Any]]:
    """Return annotation and default of the options of a choice."""
    target: Any = get_object(TARGETS[key])
    given = {*NOT_OPTIONS.get(key.split("/")[0], ()), *NOT_OPTIONS.get(key, ())}
    changed = DEFAULTS.get(key, {})
    hints = hints_of(target)
    found = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in changed or (name in hints and name not in given):
            default = changed.get(name, _plain(parameter.default))
            found[name] = (hints[name], default)
    return found


def _quoted(value: Any) -> str:
    """Return the value as Python, texts in double quotes."""
    is_json = isinstance(value, str | list | dict)
    return json.dumps(value, ensure_ascii=False) if is_json else repr(value)


def _plain(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return "???"
    if isinstance(default, Enum):
        return default.value
    if isinstance(default, tuple):
        return list(default)
    is_factory = type(default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS"
    return {} if is_factory else default


def _source(annotation: Any) -> str:
    """Return an annotation as Python that needs none of our classes."""
    for name, alias in (("Count", Count), ("Share", Share)):
        if annotation == alias:
            return name
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(dict.fromkeys(map(_source, get_args(annotation))))
    if get_origin(annotation) is Annotated and isinstance(get_args(annotation)[1], str):
        return f'Annotated[Any, "{get_args(annotation)[1]}"]'
    if get_origin(annotation) is Annotated:
        kind, bounds, _ = parts(annotation)
        names = {">=": "Ge", ">": "Gt", "<=": "Le", "<": "Lt"}
        written = [f"{names[b.relation]}({b.limit})" for b in bounds]
        return f"Annotated[{', '.join([_source(kind), *written])}]"
    if get_origin(annotation) is Literal:
        return f"Literal{_quoted(list(get_args(annotation)))}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return f"Literal{_quoted([str(member.value) for member in annotation])}"
    if get_origin(annotation) in (Sequence, list):
        return f"list[{_source(get_args(annotation)[0])}]"
    if get_origin(annotation) in (Mapping, dict):
        return f"dict[str, {_source(get_args(annotation)[1])}]"
    if annotation in (int, float, bool, str, Path):
        return "str" if annotation is Path else str(annotation.__name__)
    if annotation is NoneType:
        return "None"
    nested = NESTED.get(getattr(annotation, "__name__", ""))
    return f'Annotated[Any, "{nested}"]' if nested else "Any"


def _type_name(annotation: Any) -> str:
    kind, _, is_optional = parts(annotation)
    name = "group" if "Any, " in _source(annotation) else _source(kind)
    if name.startswith("Literal"):
        name = "choice"
    name = re.sub(r"Annotated\[(\w+)[^\]]*\]*\)?\]", r"\1", name).replace("Share", "float")
    return (name + " or null" * is_optional).replace("|", "\\|")


def _meanings(target: Any) -> dict[str, str]:
    """Return the docstring's line of each argument, a base class's where it says more."""
    owners = reversed(target.__mro__) if isinstance(target, type) else [target]
    found: dict[str, str] = {}
    for owner in owners:
        texts = [inspect.cleandoc(getattr(owner, "__doc__", None) or "")]
        if isinstance(owner, type):
            texts.append(inspect.cleandoc(getattr(owner.__init__, "__doc__", None) or ""))  # type: ignore[misc]
        for text in texts:
            section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)*)", text, flags=re.M)
            if section is None:
                continue
            for name, said in re.findall(
                r"^    (\w+): ((?:.*\n?)(?:     +.*\n?)*)", section[1], flags=re.M
            ):
                meaning = " ".join(said.split())
                if not meaning.startswith("See ") or name not in found:
                    found[name] = meaning
    return found


def main() -> None:
    """Write both files."""
    here = Path(__file__).parent
    (here / "options_table.py").write_text(table(), encoding="utf-8")
    page_path = here.parents[1] / "docs" / "options.md"
    page_path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
