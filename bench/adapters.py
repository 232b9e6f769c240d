"""Adapter switching between requests: ours, PEFT's `set_adapter`, and loading a projector from disk.

python -m bench.adapters

The published reference implementation does the latter for every request. Shapes of preset nano, random weights.
"""

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from bench.machine import describe
from bench.report import command_line, write
from model_core.language.decoder import Decoder
from model_core.language.lora import LoraConfig
from model_core.presets import nano

NAMES = ("speech", "long_speech")
WARM_UP = 20


def ours() -> tuple[Decoder, Callable[[str], object]]:
    """A decoder with two adapters, and a function that decodes one position with the named adapter."""
    decoder = nano.LANGUAGE.build()
    for name in NAMES:
        decoder.add_adapter(name, LoraConfig(rank=64, alpha=16), nano.LORA_PROJECTIONS)
    step = torch.randn(1, 1, decoder.config.width)
    return decoder, lambda name: decoder(step, adapter=name)


def peft_switch() -> Callable[[str], object]:
    """PEFT's switch with the same shapes, without decoding."""
    own = nano.LANGUAGE
    shape = LlamaConfig(
        vocab_size=1000, hidden_size=own.width, intermediate_size=own.feed_forward, num_hidden_layers=own.layers,
        num_attention_heads=own.heads, num_key_value_heads=own.key_value_heads,
    )  # fmt: skip
    config = PeftConfig(r=64, lora_alpha=16, target_modules=list(nano.LORA_PROJECTIONS))
    model = get_peft_model(LlamaForCausalLM(shape), config, NAMES[0])
    model.add_adapter(NAMES[1], config)
    return model.set_adapter


def projector_from_disk(folder: Path) -> Callable[[str], object]:
    """The reference's switch: load the projector's pickle and copy it into the model."""
    projector = nano.SPEECH_ENCODER.projector.build()
    for name in NAMES:
        torch.save(projector.state_dict(), folder / name)
    return lambda name: projector.load_state_dict(torch.load(folder / name, weights_only=True))


def seconds(call: Callable[[str], object], names: Iterator[str], repeats: int) -> list[float]:
    """Seconds of each call, with the names in turn."""
    times = []
    for _ in range(WARM_UP + repeats):
        name = next(names)
        started = time.perf_counter()
        call(name)
        times.append(time.perf_counter() - started)
    return times[WARM_UP:]


def tensor_bytes() -> int:
    """Memory of all live tensors."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if isinstance(each, Tensor)]
    alive = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    return sum(alive.values())


@torch.inference_mode()
def measure(repeats: int) -> dict[str, Any]:
    """Medians in milliseconds. Our switch is the difference between steps after another and after the same adapter."""
    _, step = ours()
    same, other = [], []
    for _ in range(repeats // 10):
        same += seconds(step, cycle(NAMES[:1]), 10)
        other += seconds(step, cycle(NAMES), 10)
    before = tensor_bytes()
    seconds(step, cycle(NAMES), repeats)
    stayed = tensor_bytes() - before
    with tempfile.TemporaryDirectory() as folder:
        disk = seconds(projector_from_disk(Path(folder)), cycle(NAMES), repeats)
    peft = seconds(peft_switch(), cycle(NAMES), max(repeats // 10, 10))
    medians = {name: statistics.median(times) * 1e3 for name, times in {
        "step_same": same, "step_other": other, "peft_set_adapter": peft, "projector_from_disk": disk,
    }.items()}  # fmt: skip
    switch = medians["step_other"] - medians["step_same"]
    return {"milliseconds": medians | {"switch": switch}, "bytes_that_stay": stayed, "switches": repeats}


def plot(report: dict[str, Any]) -> Figure:
    bars = {
        "Lyra": max(report["milliseconds"]["switch"], 0),
        "PEFT\nset_adapter": report["milliseconds"]["peft_set_adapter"],
        "projector\nfrom disk": report["milliseconds"]["projector_from_disk"],
    }
    figure = Figure(figsize=(5, 4), layout="constrained")
    axis = figure.subplots()
    axis.bar_label(axis.bar(list(bars), list(bars.values())), fmt="%.2f")
    axis.set_ylabel("milliseconds to switch the adapter")
    axis.set_title(f"{report['machine']['cores']} cores of {report['machine']['processor']}", fontsize=9)
    return figure


def main() -> None:
    parser = command_line("adapters", __doc__)
    parser.add_argument("--repeats", type=int, default=200, help="number of switches (default 200)")
    options = parser.parse_args()
    report = {"machine": describe()} | measure(options.repeats)
    write(report, options.out, plot)
    print(json.dumps({name: report[name] for name in ("milliseconds", "bytes_that_stay")}, indent=2))


if __name__ == "__main__":
    main()
