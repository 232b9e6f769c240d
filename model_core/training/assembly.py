"""Assembles a stage from a preset's models: the module to train, its batches, and how the trained parts are written.

Trained parts are stored as in `presets/nano_parts`: `adapters/NAME/` is a PEFT folder that also contains the adapter's
speech projector; `vision_projector.safetensors` is the vision projector. Stage 1 writes the speech projector beside it,
as `projector.safetensors`, because it does not belong to an adapter yet.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_core.adapter_choice import SPEECH
from model_core.audio.tensors import CLIP_SECONDS
from model_core.data.conversation import without_placeholders
from model_core.data.data_errors import disk_failures
from model_core.data.rows import LightSample
from model_core.errors import CheckpointError, InvalidInput
from model_core.language.chat_template import ChatTemplate
from model_core.language.decoder import Decoder
from model_core.presets import PROJECTOR_FILE, VISION_PROJECTOR_FILE
from model_core.presets.stages import TrainingStage
from model_core.speech.encoder import SpeechEncoder
from model_core.training.align import Align, can_align, collate_alignment
from model_core.training.examples import Batch, Example, ExampleMaker, collate, pieces
from model_core.training.features import Encoders
from model_core.training.instruct import Instruct
from model_core.training.lora_training import add_adapter, write_adapter
from model_core.training.options import Start
from model_core.training.projectors import Projectors
from model_core.training.stage_module import StageModule
from model_core.vision.encoder import ProjectedVisionEncoder, VisionEncoder

Collate = Callable[[Sequence[Any]], Batch]


@dataclass(slots=True)
class Models:
    """A preset's frozen models, from which stages are assembled.

    Attributes:
        projections: Linear layers of the decoder that adapters modify.
    """

    decoder: Decoder
    tokenizer: Tokenizer
    template: ChatTemplate
    speech: SpeechEncoder
    vision: VisionEncoder
    projections: tuple[str, ...]

    @property
    def encoders(self) -> Encoders:
        return Encoders(self.speech, self.vision)

    @property
    def maker(self) -> ExampleMaker:
        projector = self.speech.config.projector
        return ExampleMaker(self.tokenizer, self.template, projector.group, projector.merges)


@dataclass(slots=True)
class Assembly:
    """A stage, ready for the Trainer.

    Attributes:
        module: The module to train.
        collate: Makes batches of examples.
        reject_reason: Given a sample and its approximate length, returns why it cannot be used; None if it can.
        write: Writes the trained parts to a folder.
    """

    module: StageModule
    collate: Collate
    reject_reason: Callable[[LightSample, int], str | None]
    write: Callable[[Path], None]


def build_projectors(models: Models, stage: TrainingStage, start: Start) -> Projectors:
    """Projectors with the weights a stage starts from; trainable unless frozen.

    Raises:
        CheckpointError: a projector belongs to another preset.
        InvalidInput: `start` freezes something that is not a projector, or lacks an aligned speech projector.
    """
    speech = models.speech.config.projector.build()
    vision = models.vision.projector if isinstance(models.vision, ProjectedVisionEncoder) else None
    for name in start.freeze:
        if name not in ("speech", "vision"):
            raise InvalidInput("freeze", f"{name!r} is not one of speech, vision")
    owners = [name for name in (stage.adapter, start.adapter, SPEECH) if name]
    if found := start.find(*(f"adapters/{name}/{PROJECTOR_FILE}" for name in owners), PROJECTOR_FILE):
        _load(speech, found)
    elif speech.pause is not None and stage.objective == "language" and "speech" not in start.freeze:
        raise InvalidInput("start", "this projector learns pauses in stage 1: name a run of `lyra train align`")
    if vision is not None and (found := start.find(VISION_PROJECTOR_FILE)):
        _load(vision, found)
    if vision is not None:
        vision.requires_grad_("vision" not in start.freeze)
    speech.requires_grad_("speech" not in start.freeze)
    if stage.objective == "language":
        speech.freeze_pause_head()
    return Projectors(speech, vision, stage.mask_frames)


def align_assembly(models: Models, stage: TrainingStage, start: Start, samples: Sequence[LightSample]) -> Assembly:
    """Stage 1 against the embedding table.

    Args:
        models: The preset's models.
        stage: Hyperparameters.
        start: Weights of the projectors.
        samples: Training and evaluation samples; their texts determine which rows of the table are used.
    """
    projectors = build_projectors(models, stage, start)
    maker, group = models.maker, models.speech.config.projector.group
    transcripts = [text for sample in samples for text in sample.transcripts]
    names = [_name(answer) for sample in samples for answer in _named(sample)]
    vocabulary = {
        i
        for tokenizer, texts in ((maker.transcript_tokenizer, transcripts), (maker.tokenizer, names))
        for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)
        for i in encoding.ids
    }
    if not vocabulary:
        raise InvalidInput("data", "no sample has a transcript or an image with an answer that names it")
    table_VE = models.decoder.embed_tokens.weight.detach()
    module = Align(projectors, table_VE, sorted(vocabulary), _set_pieces(projectors, maker, table_VE))

    def keep(sample: LightSample, length: int) -> str | None:
        for transcript, seconds in zip(sample.transcripts, sample.seconds, strict=True):
            if seconds > CLIP_SECONDS:
                return "longer-than-a-clip"  # which words are in which clip is unknown
            if not can_align(maker.transcript(transcript).tolist(), int(seconds * 50) // group):
                return "transcript-too-long-for-its-recording" if transcript else "no-transcript"
        return None if sample.transcripts or sample.images else "neither-speech-nor-picture"

    def collate_named(examples: Sequence[Example]) -> Batch:
        return collate_alignment(examples, [maker.encode(_name(_answer(e, maker))) for e in examples])

    def write(folder: Path) -> None:
        _write_projectors(projectors, folder, folder / PROJECTOR_FILE)

    return Assembly(module, collate_named, keep, write)


def _set_pieces(projectors: Projectors, maker: ExampleMaker, table_VE: Tensor) -> list[int]:
    """Copies the embeddings of its pieces into the speech projector. Returns the pieces' token ids."""
    speech = projectors.speech
    if speech is None or speech.pieces_VE is None:
        return []
    ids = pieces(maker.transcript_tokenizer)
    if len(ids) != len(speech.pieces_VE):
        raise CheckpointError("projector.pieces", f"is {len(speech.pieces_VE)}; the tokenizer has {len(ids)}")
    speech.pieces_VE.copy_(table_VE[ids].float())
    return ids


def instruct_assembly(models: Models, stage: TrainingStage, start: Start) -> Assembly:
    """Stages 2 and 3, and stage 1 through the language model."""
    projectors = build_projectors(models, stage, start)
    decoder, adapter = models.decoder, stage.adapter
    if adapter is None or stage.lora is None:
        for resident in decoder.adapters:
            decoder.remove_adapter(resident)
        decoder.requires_grad_(False)
    else:
        add_adapter(decoder, adapter, stage.lora, models.projections, _adapter_folder(start, adapter))
    if stage.extraction:
        stage.extraction.check(len(decoder.layers))
    module = Instruct(decoder, projectors, stage.regularizer, stage.extraction)

    def keep(sample: LightSample, length: int) -> str | None:
        return "longer-than-context" if length > stage.context else None

    def write(folder: Path) -> None:
        if adapter is None:
            _write_projectors(projectors, folder, folder / PROJECTOR_FILE)
        else:
            write_adapter(decoder, adapter, folder / "adapters" / adapter)
            _write_projectors(projectors, folder, folder / "adapters" / adapter / PROJECTOR_FILE)

    return Assembly(module, collate, keep, write)


def _adapter_folder(start: Start, adapter: str) -> Path | None:
    found = start.find(f"adapters/{start.adapter or adapter}/adapter_config.json")
    if start.adapter and found is None:
        raise InvalidInput("start-adapter", f"no folder given with --start contains an adapter {start.adapter!r}")
    return found.parent if found else None


def _load(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except RuntimeError as error:
        raise CheckpointError(str(path), "is a projector of another shape, for another preset") from error


def _write_projectors(projectors: Projectors, folder: Path, speech: Path) -> None:
    for module, path in ((projectors.speech, speech), (projectors.vision, folder / VISION_PROJECTOR_FILE)):
        if module is not None and any(parameter.requires_grad for parameter in module.parameters()):
            tensors: dict[str, Tensor] = {
                name: tensor.detach().cpu().to(torch.float16).contiguous()
                for name, tensor in module.state_dict().items()
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            with disk_failures(path):
                save_file(tensors, path.with_suffix(".part"))
                path.with_suffix(".part").replace(path)


def _named(sample: LightSample) -> tuple[str, ...]:
    return sample.answers[:1] if sample.images else ()


def _name(answer: str) -> str:
    # As inside a sentence: with the leading space that belongs to the first token.
    return " " + without_placeholders(answer)


def _answer(example: Example, maker: ExampleMaker) -> str:
    learned = example.labels[example.labels >= 0].tolist()
    text: str = maker.tokenizer.decode(learned, skip_special_tokens=True)
    return text
