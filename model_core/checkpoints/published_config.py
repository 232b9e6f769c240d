"""The `config.json` of a published Lyra folder: transformers' fields of the language model, and Lyra's own.

Both of transformers' formats for the language model's fields are read: flat, and nested in `text_config`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from model_core.checkpoints.tensors import read_json
from model_core.errors import CheckpointError
from model_core.language.decoder import Decoder
from model_core.speech.unit_generator import UnitGenerator

CONFIG_FILE = "config.json"
MODEL_TYPE = "Lyra_Qwen2VL_SpeechGenerator"
# The base model of each type; plain base models are read too, as a Lyra before training.
_QWEN, _LLAMA = "qwen", "llama"
_BASES = {
    "Lyra_Qwen2VL": _QWEN,
    "Lyra_Qwen2VL_Extractor": _QWEN,
    MODEL_TYPE: _QWEN,
    "Lyra_LLaMA3": _LLAMA,
    "qwen2_vl": _QWEN,
    "qwen2_vl_text": _QWEN,
    "qwen2": _QWEN,
    "llama": _LLAMA,
}
_MAX_SIZE, _MAX_LAYERS = 1 << 24, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedConfig:
    """The config of a checkpoint.

    Attributes:
        model_type: As in the file.
        language: Shape of the language model.
        vision_tower: Folder name of the vision encoder; empty without one.
        speech_tower: Folder name of the speech encoder; empty without one.
        vision_projector: Whether there is a projector between the vision encoder and the language model, as for CLIP.
        encoder_width: Width of the speech encoder's frames; 0 without one.
        group: Frames that the speech projector concatenates.
        generator: Shape of the speech generator; None without one.
        block_layers: Layers between two extractions; 0 if the config does not say.
        keep_rate: Share of context tokens that an extraction keeps, greater than 0 and at most 1.
    """

    model_type: str
    language: Decoder.Config
    vision_tower: str
    speech_tower: str
    vision_projector: bool
    encoder_width: int
    group: int
    generator: UnitGenerator.Config | None
    block_layers: int
    keep_rate: float


def parse_config(fields: Mapping[str, Any]) -> PublishedConfig:
    """The meaning of the fields. Raises CheckpointError, which names one that is missing, wrong or not supported."""
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in _BASES:
        raise _wrong("model_type", f"{model_type!r} is not one of {', '.join(_BASES)}: this is another model's config")
    language = _language(fields, _BASES[model_type])
    speech_tower = _tower(fields, "mm_speech_tower")
    _only(fields, "mm_projector_type", ("identity", "mlp2x_gelu"))
    _only(fields, "mm_speech_projector_type", ("simple_mlp",))
    _only(fields, "speech_norm", (False,))
    _only(fields, "align_norm", (False,))
    return PublishedConfig(
        model_type=model_type,
        language=language,
        vision_tower=_tower(fields, "mm_vision_tower"),
        speech_tower=speech_tower,
        vision_projector=fields.get("mm_projector_type", "identity") != "identity",
        encoder_width=_whole(fields, "speech_encoder_hidden_size") if speech_tower else 0,
        group=_whole(fields, "speech_encoder_ds_rate") if speech_tower else 0,
        generator=_generator(fields, language.width),
        block_layers=_whole(fields, "compress_gap", 0),
        keep_rate=_keep_rate(fields),
    )


def published_fields(
    language: Decoder.Config,
    *,
    group: int = 0,
    encoder_width: int = 0,
    generator: UnitGenerator.Config | None = None,
    vision_tower: str = "",
    speech_tower: str = "",
) -> dict[str, Any]:
    """The fields of a checkpoint's config, as `parse_config` reads them."""
    fields: dict[str, Any] = {
        "model_type": MODEL_TYPE if language.qkv_bias else "Lyra_LLaMA3",
        "vocab_size": language.vocabulary,
        "hidden_size": language.width,
        "num_hidden_layers": language.layers,
        "num_attention_heads": language.heads,
        "num_key_value_heads": language.key_value_heads,
        "intermediate_size": language.feed_forward,
        "max_position_embeddings": language.context,
        "rope_theta": language.rope_base,
        "rms_norm_eps": language.norm_epsilon,
        "tie_word_embeddings": language.tied_output,
        "hidden_act": "silu",
    }
    if language.rope_sections:
        fields["rope_scaling"] = {"type": "mrope", "mrope_section": list(language.rope_sections)}
    if vision_tower:
        qwen = language.qkv_bias
        fields["mm_vision_tower"] = vision_tower
        fields["mm_projector_type"] = "identity" if qwen else "mlp2x_gelu"
        fields["image_aspect_ratio"] = "qwen2vl" if qwen else "pad"
    if speech_tower:
        fields["mm_speech_tower"] = speech_tower
        fields["mm_speech_projector_type"] = "simple_mlp"
        fields["mm_speech_hidden_size"] = fields["speech_encoder_hidden_size"] = encoder_width
        fields["speech_encoder_ds_rate"] = group
        fields["speech_norm"] = fields["align_norm"] = False
    if generator:
        shape = (generator.layers, generator.width, generator.heads, generator.feed_forward)
        fields["speech_generator_type"] = "ctc"
        fields["ctc_decoder_config"] = f"({','.join(map(str, shape))})"
        fields["ctc_upsample_factor"] = generator.upsample
        fields["unit_vocab_size"] = generator.units
    return fields


def read_config(folder: Path) -> dict[str, Any]:
    """The fields in a folder's `config.json`. Raises CheckpointError."""
    return read_json(folder / CONFIG_FILE)


def _language(fields: Mapping[str, Any], base: str) -> Decoder.Config:
    nested = fields.get("text_config")
    text = {**fields, **nested} if isinstance(nested, Mapping) else fields
    _only(text, "hidden_act", ("silu",))
    _only(text, "use_sliding_window", (False,))
    _only(text, "mlp_bias", (False,))
    _only(text, "attention_bias", (base == _QWEN,))
    width, heads = _whole(text, "hidden_size"), _whole(text, "num_attention_heads")
    key_value_heads = _whole(text, "num_key_value_heads", heads)
    if width % (2 * heads) or heads % max(key_value_heads, 1):
        raise _wrong("num_attention_heads", f"{heads} heads, {key_value_heads} of keys, do not divide {width}")
    if _whole(text, "head_dim", width // heads) != width // heads:
        raise _wrong("head_dim", f"{text['head_dim']} is not hidden_size / num_attention_heads = {width // heads}")
    rope = _rope(text)
    sections = rope.get("mrope_section")
    if sections is not None and (
        not isinstance(sections, list)
        or not all(type(part) is int and part >= 0 for part in sections)
        or len(sections) != 3
        or 2 * sum(sections) != width // heads
    ):
        raise _wrong("mrope_section", f"{sections!r} is not three numbers with the sum {width // heads // 2}")
    tied = fields.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    return Decoder.Config(
        vocabulary=_whole(text, "vocab_size"),
        width=width,
        layers=_whole(text, "num_hidden_layers", maximum=_MAX_LAYERS),
        heads=heads,
        key_value_heads=key_value_heads,
        feed_forward=_whole(text, "intermediate_size"),
        context=_whole(text, "max_position_embeddings"),
        rope_base=_number(rope, "rope_theta"),
        norm_epsilon=_number(text, "rms_norm_eps"),
        qkv_bias=base == _QWEN,
        tied_output=bool(tied),
        rope_sections=(sections[0], sections[1], sections[2]) if sections else None,
    )


def _rope(text: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_parameters`, or `rope_theta` and `rope_scaling` of older files."""
    said = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if not isinstance(said, Mapping):
        raise _wrong("rope_scaling", f"{said!r} is not a table")
    rope = {"rope_theta": text.get("rope_theta"), **said}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise _wrong("rope_scaling", f"{kind!r} is not supported, only plain and multimodal rotary embeddings")
    return rope


def _generator(fields: Mapping[str, Any], hidden_width: int) -> UnitGenerator.Config | None:
    if "speech_generator_type" not in fields:
        return None
    _only(fields, "speech_generator_type", ("ctc",))
    shape = re.fullmatch(r"\((\d+),(\d+),(\d+),(\d+)\)", str(fields.get("ctc_decoder_config")).replace(" ", ""))
    if shape is None:
        found = fields.get("ctc_decoder_config")
        raise _wrong("ctc_decoder_config", f"{found!r} is not like '(layers,width,heads,feed-forward)'")
    layers, width, heads, feed_forward = map(int, shape.groups())
    if not 1 <= layers <= _MAX_LAYERS or not 1 <= feed_forward <= _MAX_SIZE or not 1 <= heads <= width <= _MAX_SIZE:
        raise _wrong("ctc_decoder_config", f"{shape[0]} is out of bounds")
    if width % (2 * heads):
        raise _wrong("ctc_decoder_config", f"{heads} heads do not divide {width}")
    return UnitGenerator.Config(
        hidden_width=hidden_width,
        layers=layers,
        width=width,
        heads=heads,
        feed_forward=feed_forward,
        upsample=_whole(fields, "ctc_upsample_factor"),
        units=_whole(fields, "unit_vocab_size"),
    )


def _tower(fields: Mapping[str, Any], field: str) -> str:
    """The last component of the path, which was valid on the machine that wrote the file."""
    value = fields.get(field) or ""
    if not isinstance(value, str):
        raise _wrong(field, f"{value!r} is not the name of a folder")
    name = PurePosixPath(value.replace("\\", "/")).name
    if value and name in ("", "..", "."):
        raise _wrong(field, f"{value!r} is not the name of a folder")
    return name


def _keep_rate(fields: Mapping[str, Any]) -> float:
    rate = _number({"keep_rate": 1.0, **fields}, "keep_rate")
    if not 0 < rate <= 1:
        raise _wrong("keep_rate", f"{rate:g} is not greater than 0 and at most 1")
    return rate


def _only(fields: Mapping[str, Any], field: str, supported: tuple[Any, ...]) -> None:
    if fields.get(field) is not None and fields[field] not in supported:
        raise _wrong(field, f"{fields[field]!r} is not supported, only {' or '.join(map(repr, supported))}")


def _whole(fields: Mapping[str, Any], field: str, default: int | None = None, maximum: int = _MAX_SIZE) -> int:
    value = fields.get(field)
    value = default if value is None else value
    if value is None:
        raise _wrong(field, "is missing")
    minimum = min(1, default) if default is not None else 1
    if type(value) is not int or not minimum <= value <= maximum:
        raise _wrong(field, f"{value!r} is not a whole number from {minimum} to {maximum}")
    return value


def _number(fields: Mapping[str, Any], field: str) -> float:
    value = fields.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise _wrong(field, "is missing" if value is None else f"{value!r} is not a positive number")
    return float(value)


def _wrong(field: str, message: str) -> CheckpointError:
    return CheckpointError(f"{CONFIG_FILE}: {field}", message)
