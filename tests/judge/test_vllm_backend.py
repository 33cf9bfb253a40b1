import importlib.util

import numpy as np
import pytest
import torch
from builders import group
from tiny_models import save_tiny_bert, save_tiny_qwen3
from transformers import AutoModelForSequenceClassification

from deepprune.core.errors import InputError
from deepprune.data.pairs import build_pairs
from deepprune.data.prefixes import FirstTokens
from deepprune.judge.loading import load_judge
from deepprune.judge.network.backbones import Backbone, Lora, load_model, load_tokenizer
from deepprune.judge.network.cross_encoder import CrossEncoderJudge
from deepprune.judge.network.encoding import PairEncoder
from deepprune.judge.network.vllm_scoring import save_sequence_classifier

has_vllm = importlib.util.find_spec("vllm") is not None


def judge(source, pooling="last", lora=True):
    torch.manual_seed(0)
    adapters = Lora(r=2, alpha=4) if lora else None
    backbone = Backbone(source=source, pooling=pooling, lora=adapters)
    model = load_model(backbone)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora" in name or "head" in name:
                p.normal_(std=0.3)
    encoder = PairEncoder(load_tokenizer(backbone), layout=backbone.layout, max_length=256)
    return CrossEncoderJudge(model, encoder, backbone, device="cpu", precision="float32")


def pairs():
    return build_pairs(group(["a", "b"] * 3, list(range(6, 12))), FirstTokens(5))


@pytest.mark.parametrize("lora", [True, False])
def test_the_checkpoint_for_vllm_has_the_judges_logits(lora, tmp_path):
    scorer = judge(save_tiny_qwen3(tmp_path / "qwen3"), lora=lora)
    before = {name: t.clone() for name, t in scorer.model.state_dict().items()}
    save_sequence_classifier(scorer.model, tmp_path / "whole")
    read = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole").eval()
    some = pairs()
    texts = [(p.first.trace.question.text, p.first.text, p.second.text) for p in some]
    sequences = [scorer.encoder.join(*scorer.encoder.tokenise(parts)) for parts in texts]
    with torch.inference_mode():
        logits = [float(read(torch.tensor([s.input_ids])).logits) for s in sequences]
    assert np.allclose(logits, scorer.logits(some), atol=1e-5)
    assert np.std(logits) > 1e-3
    after = scorer.model.state_dict()
    assert all((after[name] == t).all() for name, t in before.items())


@pytest.mark.skipif(has_vllm, reason="has vLLM")
def test_a_missing_vllm_is_an_error(tmp_path):
    folder = judge(save_tiny_qwen3(tmp_path / "qwen3")).export(tmp_path / "judge")
    with pytest.raises(InputError, match=r"deepprune\[vllm\]"):
        load_judge(folder, backend="vllm")


def test_what_vllm_cannot_serve_is_refused(tmp_path):
    folder = judge(save_tiny_bert(tmp_path / "bert"), "cls", lora=False).export(tmp_path / "judge")
    with pytest.raises(InputError, match="got pooling 'cls'"):
        load_judge(folder, backend="vllm")
    with pytest.raises(ValueError, match="got 'tensorrt'"):
        load_judge(folder, backend="tensorrt")
    causal = judge(save_tiny_qwen3(tmp_path / "qwen3")).export(tmp_path / "causal")
    with pytest.raises(InputError, match="got device 'cpu'"):
        load_judge(causal, "cpu", backend="vllm")


@pytest.mark.vllm
@pytest.mark.timeout(600)
@pytest.mark.skipif(not has_vllm, reason="needs vLLM: pip install 'deepprune[vllm]'")
@pytest.mark.filterwarnings("default")  # the engine's own
def test_vllm_gives_the_logits_of_transformers(tmp_path, monkeypatch):
    from deepprune.judge.network.vllm_scoring import VllmJudge

    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    source = save_tiny_qwen3(tmp_path / "qwen3", head_dim=32)  # vLLM's kernels have no smaller
    scorer, some = judge(source), pairs()
    scorer.calibrate(some)
    folder = scorer.export(tmp_path / "judge")
    served = VllmJudge.load(folder, precision="float32", gpu_memory_utilization=0.2)
    assert np.allclose(served.logits(some), scorer.logits(some), atol=1e-4)
    assert np.allclose(served.score(some), scorer.score(some), atol=1e-4)
    assert served.provenance.fingerprint != scorer.provenance.fingerprint
    again = served.export(tmp_path / "again")
    assert load_judge(again, "cpu").provenance.seen_questions == scorer.provenance.seen_questions
