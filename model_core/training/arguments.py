"""A run's options as the arguments of Hugging Face's Trainer: batch, precision, and how processes share the work."""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from model_core.errors import InvalidInput
from model_core.kernels import fast_dtype
from model_core.training.options import StageOptions

CHECKPOINTS = "checkpoints"


def training_arguments(options: StageOptions) -> TrainingArguments:
    """The Trainer's arguments for a run; where there are several processes, they meet here.

    Raises:
        InvalidInput: the batch does not share out, several GPUs would have one process, or DeepSpeed's configuration
            cannot be used.
    """
    stage = options.hyperparameters
    at_a_time, shares = _shared_out(options)
    watched = bool(options.patience)
    arguments = TrainingArguments(
        output_dir=str(options.out / CHECKPOINTS),
        logging_strategy="steps",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        bf16=options.bfloat16 if options.bfloat16 is not None else _fast_bfloat16(),
        per_device_train_batch_size=at_a_time,
        per_device_eval_batch_size=at_a_time,
        gradient_accumulation_steps=shares,
        learning_rate=stage.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": stage.lowest_rate},
        warmup_steps=stage.warmup,
        adam_beta1=stage.betas[0],
        adam_beta2=stage.betas[1],
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.clip,
        logging_steps=options.log_every,
        save_strategy="steps",
        # The best weights must be those of a checkpoint.
        save_steps=options.evaluate_every if watched else options.save_every,
        save_total_limit=2,
        eval_strategy="steps" if options.evaluate else "no",
        eval_steps=options.evaluate_every if options.evaluate else None,
        load_best_model_at_end=watched,
        metric_for_best_model="eval_loss" if watched else None,
        greater_is_better=False if watched else None,
        restore_callback_states_from_checkpoint=watched,
        activation_checkpointing=options.checkpointing,
        dataloader_num_workers=options.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        ddp_find_unused_parameters=True,
        seed=options.seed,
        data_seed=options.seed,
        deepspeed=_deepspeed(options.deepspeed),
        **_fsdp(options.fsdp),
    )
    if arguments.n_gpu > 1:
        raise InvalidInput(
            "processes",
            f"one process sees {arguments.n_gpu} GPUs: start one for each with `torchrun --nproc-per-node "
            f"{arguments.n_gpu} -m cli train ...`, or show it one with CUDA_VISIBLE_DEVICES=0",
        )
    return arguments


def _shared_out(options: StageOptions) -> tuple[int, int]:
    """Samples that a process takes at a time, and how many times it does so in an optimiser step."""
    batch, processes = options.hyperparameters.batch, int(os.environ.get("WORLD_SIZE", "1"))
    a_process = batch // processes
    at_a_time = options.device_batch or a_process
    if a_process * processes != batch or a_process % at_a_time:
        raise InvalidInput(
            "batch", f"{batch} does not share out to {processes} processes that take {at_a_time} samples at a time"
        )
    return at_a_time, a_process // at_a_time


def _fast_bfloat16() -> bool:
    return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else fast_dtype() == torch.bfloat16


def _fsdp(asked: str) -> dict[str, Any]:
    """A decoder layer is what is gathered at a time, unless the configuration says otherwise."""
    if not asked:
        return {}
    if not torch.cuda.is_available():
        raise InvalidInput("fsdp", "shares weights out to GPUs, and there is none here: leave it away")
    layer = {"transformer_layer_cls_to_wrap": ["DecoderLayer"]}
    if asked.endswith(".json"):
        return {"fsdp": True, "fsdp_config": layer | _read_json("fsdp", Path(asked))}
    return {"fsdp": True, "fsdp_config": layer | _sharding(asked)}


def _sharding(asked: str) -> dict[str, Any]:
    """Words as Hugging Face's Trainer once took them."""
    words = {
        "full_shard": {"reshard_after_forward": True},
        "shard_grad_op": {"reshard_after_forward": False},
        "offload": {"cpu_offload": True},
        "auto_wrap": {},
    }
    config: dict[str, Any] = {}
    for word in asked.split():
        if word not in words:
            raise InvalidInput("fsdp", f"{word!r} is none of {', '.join(words)}, and no JSON file")
        config |= words[word]
    return config


def _deepspeed(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    config = _read_json("deepspeed", path)
    if config.get("zero_optimization", {}).get("stage", 0) == 3:
        raise InvalidInput(
            "deepspeed", f"{path} asks for ZeRO stage 3, sharing out frozen weights: use --fsdp full_shard for that"
        )
    if find_spec("deepspeed") is None:
        raise InvalidInput("deepspeed", "the package is not installed: pip install deepspeed (it wants a CUDA toolkit)")
    return config


def _read_json(field: str, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput(field, f"{path} is no JSON file: {error}") from error
    if not isinstance(values, dict):
        raise InvalidInput(field, f"{path} holds no JSON object")
    return values
