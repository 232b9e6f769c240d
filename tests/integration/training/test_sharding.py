"""PyTorch's FSDP on CPUs: our modules train and are saved as if they were not sharded."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from model_core.language.decoder import DecoderLayer
from model_core.language.lora import LoraConfig
from model_core.presets import tiny
from model_core.training.examples import Batch, collate
from model_core.training.instruct import Instruct
from model_core.training.lora_training import add_adapter, write_adapter
from model_core.training.projectors import Projectors
from model_core.training.sharding import assign, full_tensor, gather_parameters
from tests.training_runs import Processes, instruct_samples, to_examples

WORLD = 2


def instruct() -> Instruct:
    torch.manual_seed(0)
    decoder = tiny.LANGUAGE.build().requires_grad_(False)
    add_adapter(decoder, "speech", LoraConfig(rank=2, alpha=4), tiny.LORA_PROJECTIONS, None)
    for name, parameter in decoder.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    projectors = Projectors(tiny.SPEECH_ENCODER.projector.build(), tiny.VISION_ENCODER.projector.build())
    return Instruct(decoder, projectors, regularizer=0.5)


def learning(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def learn(module: Instruct, batch: Batch, totals: torch.Tensor, world: int) -> None:
    """A training step like the Trainer's."""
    outputs = module(**batch)
    shares = module.totals(batch) / totals
    parts = torch.stack([outputs[name] for name in module.part_weights])
    weights = torch.tensor(list(module.part_weights.values()))
    ((parts * shares * weights).sum() * world).backward()


def of_a_process(folder: Path) -> None:
    """Trains on its share of the batch, and writes the result."""
    distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (WORLD,))
    module, examples = instruct(), to_examples(instruct_samples(3))
    for layer in module.modules():
        if isinstance(layer, DecoderLayer):
            fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    rank = distributed.get_rank()
    learn(module, collate(examples[:1] if rank == 0 else examples[1:]), module.totals(collate(examples)), WORLD)
    gradients = {
        name: full_tensor(parameter.grad) for name, parameter in learning(module).items() if parameter.grad is not None
    }
    for name, parameter in learning(module).items():
        assign(parameter, full_tensor(parameter) + gradients[name])
    gather_parameters(module)
    if rank == 0:
        save_file({name: gradient.contiguous() for name, gradient in gradients.items()}, folder / "gradients")
        save_file({name: p.detach().contiguous() for name, p in learning(module).items()}, folder / "weights")
        write_adapter(module.decoder, "speech", folder / "adapter", torch.float32)
    distributed.destroy_process_group()


def test_sharded_weights_train_and_are_saved_like_unsharded_ones(tmp_path: Path) -> None:
    Processes().run_together(WORLD, of_a_process, tmp_path)
    alone, examples = instruct(), to_examples(instruct_samples(3))
    batch = collate(examples)
    learn(alone, batch, alone.totals(batch), 1)
    gradients, weights = load_file(tmp_path / "gradients"), load_file(tmp_path / "weights")
    assert gradients.keys() == weights.keys() == learning(alone).keys()
    for name, parameter in learning(alone).items():
        assert parameter.grad is not None
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(weights[name], parameter.detach() + parameter.grad, rtol=1e-3, atol=1e-5)
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    learned = {name.replace("speech.", ""): tensor for name, tensor in weights.items() if "lora_" in name}
    assert len(adapter) == len(learned)
    for name, tensor in adapter.items():
        own = next(each for each in learned if each.removeprefix("decoder.") in name)
        torch.testing.assert_close(tensor, learned[own])
