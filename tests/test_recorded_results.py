"""Small commands give what is recorded of them."""

import json

import pytest
from recorded_results import COMMANDS, RECORDED, TRAINED_WEIGHTS, Runner, differences, simplified

from deepprune.judge.network.cross_encoder import has_fast_bfloat16

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_gives_what_is_recorded(name, tmp_path):
    if name == "train_minilm" and has_fast_bfloat16("cpu"):
        pytest.skip("recorded in float32; this CPU computes in bfloat16")
    found = simplified(COMMANDS[name](Runner(tmp_path)))
    recorded = json.loads((RECORDED / f"{name}.json").read_text())
    told = differences(found, recorded, 0.01 if name in TRAINED_WEIGHTS else 1e-7)
    assert not told, "\n".join(told[:20])
