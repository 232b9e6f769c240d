"""A run's options as the arguments of Hugging Face's Trainer: batch, precision and distribution."""

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
    """The Trainer's arguments for a run; several processes rendezvous here.

    Raises:
        InvalidInput: the batch is not divisible, there is one process for several GPUs, or DeepSpeed's configuration is
            not supported.
    """
    stage = options.hyperparameters
    at_a_time, shares = _micro_batches(options)
    early_stopping = bool(options.patience)
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
        # The best weights can only be restored from a checkpoint.
        save_steps=options.evaluate_every if early_stopping else options.save_every,
        save_total_limit=2,
        eval_strategy="steps" if options.evaluate else "no",
        eval_steps=options.evaluate_every if options.evaluate else None,
        load_best_model_at_end=early_stopping,
        metric_for_best_model="eval_loss" if early_stopping else None,
        greater_is_better=False if early_stopping else None,
        restore_callback_states_from_checkpoint=early_stopping,
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
            f"one process sees {arguments.n_gpu} GPUs: start one per GPU with `torchrun --nproc-per-node "
            f"{arguments.n_gpu} -m cli train ...`, or use one of them with CUDA_VISIBLE_DEVICES=0",
        )
    return arguments


def _micro_batches(options: StageOptions) -> tuple[int, int]:
    """Samples per micro-batch of a process, and micro-batches per optimiser step."""
    batch, processes = options.hyperparameters.batch, int(os.environ.get("WORLD_SIZE", "1"))
    a_process = batch // processes
    at_a_time = options.device_batch or a_process
    if a_process * processes != batch or a_process % at_a_time:
        raise InvalidInput(
            "batch", f"{batch} is not divisible among {processes} processes with {at_a_time} samples at a time"
        )
    return at_a_time, a_process // at_a_time


def _fast_bfloat16() -> bool:
    return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else fast_dtype() == torch.bfloat16


def _fsdp(asked: str) -> dict[str, Any]:
    """FSDP wraps decoder layers, unless the configuration says otherwise."""
    if not asked:
        return {}
    if not torch.cuda.is_available():
        raise InvalidInput("fsdp", "shards weights over GPUs, and this machine has none: omit it")
    layer = {"transformer_layer_cls_to_wrap": ["DecoderLayer"]}
    if asked.endswith(".json"):
        return {"fsdp": True, "fsdp_config": layer | _read_json("fsdp", Path(asked))}
    return {"fsdp": True, "fsdp_config": layer | _sharding(asked)}


def _sharding(asked: str) -> dict[str, Any]:
    """The words that earlier versions of Hugging Face's Trainer accepted."""
    words = {
        "full_shard": {"reshard_after_forward": True},
        "shard_grad_op": {"reshard_after_forward": False},
        "offload": {"cpu_offload": True},
        "auto_wrap": {},
    }
    config: dict[str, Any] = {}
    for word in asked.split():
        if word not in words:
            raise InvalidInput("fsdp", f"{word!r} is not one of {', '.join(words)} or a JSON file")
        config |= words[word]
    return config


def _deepspeed(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    config = _read_json("deepspeed", path)
    if config.get("zero_optimization", {}).get("stage", 0) == 3:
        raise InvalidInput(
            "deepspeed", f"{path} requests ZeRO stage 3, which shards frozen weights: use --fsdp full_shard for that"
        )
    if find_spec("deepspeed") is None:
        raise InvalidInput("deepspeed", "the package is not installed: pip install deepspeed (needs a CUDA toolkit)")
    return config


def _read_json(field: str, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput(field, f"{path} is not a JSON file: {error}") from error
    if not isinstance(values, dict):
        raise InvalidInput(field, f"{path} is not a JSON object")
    return values
