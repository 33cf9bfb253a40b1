# mypy: ignore-errors
# ruff: noqa: E501
# fmt: off
"""Name, type, range and default of the groups' options; written by `config.generate`."""

from typing import Annotated, Any, Literal

from deepprune.core.options import Count, Ge, Gt, Le, Lt, Share

TABLE: dict[str, tuple[str, dict[str, tuple[Any, Any]]]] = {
    "prefix/first_tokens": ("deepprune.data.prefixes.FirstTokens", {
        "k": (Count, 64)}),
    "prefix/reasoning_words": ("deepprune.data.prefixes.ReasoningWords", {
        "k": (Count, 25),
        "words": (list[str], ["wait", "thus", "since", "so", "therefore", "hence", "because", "but", "however", "then", "alternatively", "hmm", "first", "next", "now", "let"])}),
    "prefix/fraction": ("deepprune.data.prefixes.Fraction", {
        "k": (Annotated[float, Gt(0), Le(1)], 0.25)}),
    "model/linear": ("deepprune.judge.linear.LinearArchitecture", {
        "groups": (list[str], ["overlaps", "lengths"]),
        "hidden": (Annotated[int, Ge(0)], 0)}),
    "model/lora": ("deepprune.judge.network.backbones.Lora", {
        "r": (Count, 16),
        "alpha": (int, 32),
        "dropout": (Annotated[float, Ge(0), Lt(1)], 0.0),
        "target_modules": (list[str], ["q_proj", "k_proj", "v_proj", "o_proj"])}),
    "model/backbone": ("deepprune.judge.network.backbones.Backbone", {
        "source": (str, "minilm"),
        "revision": (str | None, None),
        "pooling": (Literal["last", "cls", "mean", "segments"], "segments"),
        "head": (Literal["classification", "generative"], "classification"),
        "lora": (Annotated[Any, "model/lora"] | None, None),
        "freeze": (bool, False),
        "dropout": (Annotated[float, Ge(0), Lt(1)], 0.0),
        "dtype": (Literal["float32", "bfloat16"], "float32"),
        "attention": (Literal["sdpa", "eager", "flash_attention_2"], "sdpa"),
        "gradient_checkpointing": (bool, False),
        "trust_remote_code": (bool, False)}),
    "model/encoder": ("deepprune.judge.network.encoding.PairEncoder", {
        "max_length": (Count, 512),
        "with_question": (bool, False),
        "chat_template": (bool, False),
        "template": (str | None, None),
        "answer_words": (list[str], ["Yes", "No"])}),
    "model/cross_encoder": ("deepprune.judge.network.cross_encoder.CrossEncoderArchitecture", {
        "backbone": (Annotated[Any, "model/backbone"], {}),
        "encoder": (Annotated[Any, "model/encoder"], {}),
        "symmetric": (bool, False)}),
    "loss/focal": ("deepprune.judge.network.losses.FocalLoss", {
        "gamma": (Annotated[float, Ge(0)], 2.0),
        "alpha": (Share | None, 0.5)}),
    "loss/bce": ("deepprune.judge.network.losses.BCELoss", {}),
    "loss/weighted_bce": ("deepprune.judge.network.losses.WeightedBCELoss", {
        "positive_weight": (Annotated[float, Gt(0)], 0.5)}),
    "loss/ranking": ("deepprune.judge.network.losses.RankingLoss", {
        "bce_weight": (Share, 0.25)}),
    "sampler/natural": ("deepprune.data.samplers.NaturalSampler", {}),
    "sampler/oversample": ("deepprune.data.samplers.OversampleSampler", {
        "ratio": (Annotated[float, Ge(1)], 2.0)}),
    "sampler/balanced": ("deepprune.data.samplers.BalancedSampler", {}),
    "sampler/question_balanced": ("deepprune.data.samplers.QuestionBalancedSampler", {
        "block": (Count, 2)}),
    "pruning/deepprune": ("deepprune.pruning.policies.deepprune.DeepPrune", {
        "prefix": (Any, "${prefix}"),
        "threshold": (Annotated[float, Ge(0)], 0.5),
        "clustering": (Literal["greedy", "posterior", "average"], "greedy"),
        "max_clusters": (Count, 32),
        "max_members": (Count, 10),
        "finish": (Literal["largest_cluster", "representatives"], "largest_cluster"),
        "max_finishers": (Count, 20),
        "singleton_finishers": (Count, 20),
        "vote": (Literal["plain", "size", "posterior"], "plain"),
        "wave": (Count | None, None),
        "stop_confidence": (Annotated[float, Gt(0), Lt(1)] | None, None),
        "check_every": (Count, 500)}),
    "pruning/representatives": ("deepprune.pruning.policies.deepprune.DeepPrune", {
        "prefix": (Any, "${prefix}"),
        "threshold": (Annotated[float, Ge(0)], 0.5),
        "clustering": (Literal["greedy", "posterior", "average"], "greedy"),
        "max_clusters": (Count, 32),
        "max_members": (Count, 10),
        "finish": (Literal["largest_cluster", "representatives"], "largest_cluster"),
        "max_finishers": (Count, 20),
        "singleton_finishers": (Count, 20),
        "vote": (Literal["plain", "size", "posterior"], "plain"),
        "wave": (Count | None, None),
        "stop_confidence": (Annotated[float, Gt(0), Lt(1)] | None, None),
        "check_every": (Count, 500),
        "name": (str, "representatives")}),
    "pruning/deepconf": ("deepprune.pruning.policies.deepconf.DeepConf", {
        "keep": (Annotated[float, Gt(0), Le(1)], 0.1),
        "warmup": (Count, 16),
        "window": (Count, 2048),
        "consensus": (Annotated[float, Gt(0), Le(1)] | None, None),
        "check_every": (Count, 128),
        "parallel": (Count, 16)}),
    "pruning/deepconf_offline": ("deepprune.pruning.policies.deepconf_offline.DeepConfOffline", {
        "k": (Count | None, None),
        "measure": (Literal["mean", "tail", "lowest_group", "bottom_groups"], "tail"),
        "keep": (Annotated[float, Gt(0), Le(1)], 0.1),
        "window": (Count, 2048)}),
    "pruning/slim_sc": ("deepprune.pruning.policies.slim_sc.SlimSC", {
        "similarity": (Share, 0.95),
        "variant": (Literal["random", "diversity"], "diversity"),
        "warmup": (Count, 256),
        "check_every": (Count, 256)}),
    "pruning/adaptive_consistency": ("deepprune.pruning.policies.adaptive_consistency.AdaptiveConsistency", {
        "stop_confidence": (Share, 0.95),
        "cap": (Count | None, None),
        "wave": (Count, 1),
        "rule": (Literal["beta", "dirichlet", "majority", "entropy"], "beta")}),
    "pruning/race": ("deepprune.pruning.policies.race.Race", {
        "width": (Count, 4),
        "budget": (Annotated[float, Gt(0)], 100.0),
        "flight": (Share, 0.0),
        "flight_after": (Count, 128)}),
    "pruning/short_m": ("deepprune.pruning.policies.short_m.ShortM", {
        "k": (Count, 8),
        "m": (Count, 3)}),
    "pruning/esc": ("deepprune.pruning.policies.esc.ESC", {
        "window": (Annotated[int, Ge(2)], 5),
        "cap": (Count | None, None)}),
    "pruning/early_exit": ("deepprune.pruning.policies.early_exit.EarlyExit", {
        "force_every": (Count, 500),
        "agreeing": (Count, 3),
        "k": (Count | None, None)}),
    "pruning/parallel_probe": ("deepprune.pruning.policies.parallel_probe.ParallelProbe", {
        "force_every": (Count, 500),
        "stable": (Count, 42),
        "warmup": (Annotated[int, Ge(0)], 16),
        "prune_share": (Share, 0.0),
        "prune_after": (Count, 7),
        "min_active": (Count, 1),
        "k": (Count | None, None)}),
    "pruning/mars": ("deepprune.pruning.policies.mars.MARS", {
        "force_every": (Count, 500),
        "warmup": (Count, 16),
        "gamma": (Share, 1.0)}),
    "engine/replay": ("deepprune.pruning.replay.ReplayEngine", {
        "steps": (Any, "h100_qwen3_8b"),
        "tokens_per_forced_answer": (Annotated[int, Ge(0)], 20),
        "shuffle": (bool, True)}),
    "engine/scripted": ("deepprune.generation.scripted.scripted", {
        "traces": (str, "pool"),
        "model": (str | None, None),
        "seconds_per_token": (Annotated[float, Ge(0)], 0.02)}),
    "engine/vllm": ("deepprune.generation.vllm.VllmBackend", {
        "model": (str, "Qwen/Qwen3-8B"),
        "name": (str | None, None),
        "revision": (str | None, None),
        "tokenizer": (str | None, None),
        "dtype": (Literal["auto", "bfloat16", "float16", "float32"], "auto"),
        "max_model_len": (Count | None, None),
        "gpu_memory_utilization": (Annotated[float, Gt(0), Le(1)], 0.7),
        "tensor_parallel_size": (Count, 1),
        "max_num_seqs": (Count | None, None),
        "enforce_eager": (bool, False),
        "trust_remote_code": (bool, False),
        "extra": (dict[str, Any] | None, None)}),
    "engine/openai": ("deepprune.generation.openai.client.OpenAIBackend", {
        "base_url": (str, "http://localhost:8000/v1"),
        "model": (str | None, None),
        "name": (str | None, None),
        "api": (Literal["auto", "completions", "chat"], "auto"),
        "tokenizer": (str | None, None),
        "api_key_env": (str, "OPENAI_API_KEY"),
        "timeout_s": (Annotated[float, Gt(0)], 120.0),
        "max_retries": (Annotated[int, Ge(0)], 5),
        "max_concurrent": (Annotated[int, Ge(1), Le(1000)], 256),
        "extra_body": (dict[str, Any] | None, None),
        "omit": (list[str], [])}),
    "prompt/prompt": ("deepprune.generation.backend.PromptFormat", {
        "template": (str, "{question}\n\nThink step by step, then write the final answer as \\boxed{answer}."),
        "system": (str | None, None),
        "chat": (bool, True),
        "chat_arguments": (dict[str, Any], {}),
        "think_end": (str, ""),
        "force": (str, "\n\nThe final answer is \\boxed{"),
        "answer_style": (Literal["auto", "boxed", "answer_is", "gsm8k", "choice"], "boxed")}),
    "sampling/sampling": ("deepprune.generation.backend.Sampling", {
        "max_tokens": (Count, 32768),
        "temperature": (Annotated[float, Ge(0)], 0.6),
        "top_p": (Annotated[float, Gt(0), Le(1)], 0.95),
        "top_k": (Annotated[int, Ge(0)], 0),
        "stop": (list[str], []),
        "logprobs": (Annotated[int, Ge(0)], 0)}),
    "live/live": ("deepprune.generation.engine_loop.EngineLoop", {
        "mode": (Literal["stream", "resubmit"], "stream"),
        "force_every": (Count | None, None),
        "force_tokens": (Count, 20),
        "stall_s": (Annotated[float, Gt(0)], 300.0),
        "prior_length": (Annotated[float, Gt(0)] | None, None)}),
    "questions/columns": ("deepprune.generation.questions.Columns", {
        "question": (str, "question"),
        "gold": (str | None, "gold"),
        "question_id": (str | None, "question_id"),
        "wrong": (list[str], [])}),
    "questions/question_file": ("deepprune.generation.questions.QuestionFile", {
        "ids": (list[str] | None, None),
        "limit": (Count | None, None),
        "dataset": (str | None, None),
        "columns": (Annotated[Any, "questions/columns"], {}),
        "where": (dict[str, str], {}),
        "seed": (int, 0),
        "path": (str, "???")}),
    "questions/hub_questions": ("deepprune.generation.questions.HubQuestions", {
        "ids": (list[str] | None, None),
        "limit": (Count | None, None),
        "dataset": (str | None, None),
        "columns": (Annotated[Any, "questions/columns"], {}),
        "where": (dict[str, str], {}),
        "seed": (int, 0),
        "path": (str, "???"),
        "split": (str, "test"),
        "name": (str | None, None),
        "revision": (str | None, None)}),
    "questions/generated_questions": ("deepprune.generation.questions.GeneratedQuestions", {
        "ids": (list[str] | None, None),
        "limit": (Count | None, None),
        "tasks": (list[str], "???"),
        "size": (Count, 20),
        "seed": (int, 0)}),
    "questions/recorded_questions": ("deepprune.generation.questions.RecordedQuestions", {
        "ids": (list[str] | None, None),
        "limit": (Count | None, None),
        "traces": (str, "pool"),
        "datasets": (list[str] | None, None)}),
    "generators/size": ("deepprune.evaluation.ledger.GeneratorSize", {
        "params": (Annotated[float, Gt(0)], "???"),
        "layers": (Count, "???"),
        "hidden": (Count, "???"),
        "window": (Count | None, None),
        "windowed": (Annotated[int, Ge(0)], 0),
        "usd_prompt": (float | None, None),
        "usd_generated": (float | None, None)}),
    "steps/step_times": ("deepprune.core.step_times.StepTimes", {
        "weights_s": (Annotated[float, Gt(0)], "???"),
        "compute_s": (Annotated[float, Ge(0)], "???"),
        "kv_s": (Annotated[float, Ge(0)], "???"),
        "flops_per_s": (Annotated[float, Gt(0)], "???")}),
    "distributed/processes": ("deepprune.evaluation.distributed.Processes", {
        "n": (Count | None, None)}),
    "distributed/ray": ("deepprune.evaluation.distributed.Ray", {
        "n": (Count, 2),
        "address": (str | None, None),
        "cpus": (float, 1),
        "gpus": (Annotated[float, Ge(0)], 0)}),
    "judge/lexical": ("deepprune.judge.baselines.LexicalJudge", {}),
    "judge/length_only": ("deepprune.judge.baselines.LengthOnlyJudge", {}),
    "judge/sentence_embedding": ("deepprune.judge.features.embeddings.SentenceEmbeddingJudge", {
        "max_length": (Annotated[int, Ge(3), Le(512)], 256)}),
    "judge/oracle": ("deepprune.judge.baselines.OracleJudge", {}),
    "judge/coin": ("deepprune.judge.baselines.CoinJudge", {
        "seed": (int, 0)}),
    "judge/noisy_oracle": ("deepprune.judge.baselines.NoisyOracleJudge", {
        "auroc": (Annotated[float, Gt(0.5), Lt(1)], 0.7),
        "seed": (int, 0)}),
    "judge/trained": ("deepprune.judge.loading.load_judge", {
        "path": (str, "???"),
        "device": (str, "auto"),
        "backbone": (str | None, None),
        "backend": (Literal["transformers", "vllm"], "transformers"),
        "gpu_memory_utilization": (Annotated[float, Gt(0), Le(1)], 0.9)}),
    "judge/cascade": ("deepprune.judge.loading.load_cascade", {
        "cheap": (str, "???"),
        "expensive": (str, "???"),
        "low": (Share | None, None),
        "high": (Share | None, None),
        "share": (Annotated[float, Gt(0), Le(1)] | None, None),
        "device": (str, "auto")}),
    "judge/zero_shot": ("deepprune.judge.network.zero_shot.zero_shot_judge", {
        "source": (str, "Qwen/Qwen3-4B-Instruct-2507"),
        "revision": (str | None, None),
        "max_length": (Count, 2048),
        "with_question": (bool, True),
        "chat_template": (bool, True),
        "template": (str | None, None),
        "answer_words": (list[str], ["Yes", "No"]),
        "symmetric": (bool, False),
        "dtype": (Literal["float32", "bfloat16"], "bfloat16"),
        "attention": (Literal["sdpa", "eager", "flash_attention_2"], "sdpa"),
        "device": (str, "auto"),
        "trust_remote_code": (bool, False)}),
}
"""Of each choice its constructor, and for each option annotation and default; ??? must be given."""
