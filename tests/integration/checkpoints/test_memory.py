"""Loading needs little more memory than the weights, measured in a separate process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model_core.checkpoints.published_config import published_fields
from model_core.checkpoints.published_names import published_name
from model_core.language.decoder import Decoder

# 78 million weights; the embedding table alone is a sixth of them.
CONFIG = Decoder.Config(
    vocabulary=16_384, width=768, layers=9, heads=12, key_value_heads=2, feed_forward=2560, context=512, qkv_bias=True,
    rope_sections=(8, 12, 12),
)  # fmt: skip
MEASURE = """
import json, re, sys
from pathlib import Path
import torch
from model_core.checkpoints.published import open_checkpoint

def resident(which):
    return int(re.search(rf"{which}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

checkpoint = open_checkpoint(Path(sys.argv[1]))
with torch.device("meta"):
    decoder = checkpoint.config.language.build()
torch.ones(8).to(torch.bfloat16).isfinite().all()
before = resident("VmRSS")
checkpoint.load_into(decoder, "language", getattr(torch, sys.argv[2]))
peak = resident("VmHWM")
weights = sum(parameter.nbytes for parameter in decoder.parameters())
print(json.dumps({"weights": weights, "peak": peak - before}))
"""


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        shapes = CONFIG.build().state_dict()
    generator = torch.Generator().manual_seed(0)
    return {
        published_name("language", name): torch.randn(shape.shape, generator=generator)
        for name, shape in shapes.items()
    }


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("suffix", "dtype"), [("safetensors", "bfloat16"), ("bin", "float32")])
def test_peak_memory_stays_under_1_15_times_the_weights(
    tensors: dict[str, torch.Tensor], tmp_path: Path, suffix: str, dtype: str
) -> None:
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names, half = list(tensors), len(tensors) // 2
    shards = {f"{stem}-00001-of-00002.{suffix}": names[:half], f"{stem}-00002-of-00002.{suffix}": names[half:]}
    for file, held in shards.items():
        save = save_file if suffix == "safetensors" else torch.save
        save({name: tensors[name] for name in held}, tmp_path / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    (tmp_path / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text(json.dumps(published_fields(CONFIG)))
    command = [sys.executable, "-c", MEASURE, str(tmp_path), dtype]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert measured["weights"] > 100e6
    assert measured["peak"] < 1.15 * measured["weights"], measured["peak"] / measured["weights"]
