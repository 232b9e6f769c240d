"""Names in published Lyra checkpoints and in files of transformers and PEFT, mapped to ours and back.

Each part of a checkpoint has a prefix; the rest of a name is the one in our module. Variants of a prefix that other
programs write are read, but never written.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, get_args

Part = Literal["language", "speech_projector", "vision_projector", "speech_generator", "vision_tower", "speech_tower"]
PARTS: tuple[Part, ...] = get_args(Part)

SPEECH_LORA, LONG_SPEECH_LORA = "speech_lora", "long_speech_lora"
# Folder of an adapter -> its name here.
ADAPTER_FOLDERS = {SPEECH_LORA: "speech", LONG_SPEECH_LORA: "long_speech"}
VOCODER_FOLDER, VOCODER_FILE = "vocoder", "g_00500000"

_PREFIXES: Mapping[Part, tuple[str, ...]] = {
    "speech_projector": ("model.mm_speech_projector.",),
    "vision_projector": ("model.mm_projector.",),
    "speech_generator": ("speech_generator.",),
    # CLIP's has one more level; the last two are transformers' own.
    "vision_tower": (
        "model.vision_tower.vision_tower.",
        "model.vision_tower.vision_tower.vision_model.",
        "visual.",
        "model.visual.",
    ),
    "speech_tower": ("model.speech_tower.speech_tower.",),
    # The second is what transformers 5 calls it in memory, and PEFT on disk.
    "language": ("model.", "model.language_model."),
}
_HEAD = "lm_head."
_LANGUAGE_ROOTS = ("embed_tokens.", "layers.", "norm.")
# The first tensor of an encoder: its prefix in the encoder's own folder, as transformers writes it, is that of the
# others. The folder may hold other models as well, such as Whisper's decoder.
_FIRST_TENSORS: Mapping[Part, tuple[str, ...]] = {
    "vision_tower": ("patch_embed.proj.weight", "embeddings.patch_embedding.weight"),
    "speech_tower": ("conv1.weight",),
}
# Computed, not learned; old versions of transformers stored them.
_COMPUTED = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq", "embeddings.position_ids")
_PEFT_PREFIX = "base_model.model."


class OwnName(NamedTuple):
    """The part that a tensor belongs to, and its name in our module."""

    part: Part
    name: str


def own_name(foreign: str) -> OwnName | None:
    """`model.layers.0.mlp.up_proj.weight` -> language, `layers.0.mlp.up_proj.weight`. None for an unknown name."""
    if foreign.startswith(_HEAD):
        return OwnName("language", foreign)
    for part, prefixes in _PREFIXES.items():
        for prefix in sorted(prefixes, key=len, reverse=True):
            name = foreign.removeprefix(prefix)
            if foreign.startswith(prefix) and (part != "language" or name.startswith(_LANGUAGE_ROOTS)):
                return OwnName(part, name)
    return None


def published_name(part: Part, name: str) -> str:
    """The inverse: the name of our tensor in a published checkpoint."""
    return name if part == "language" and name.startswith(_HEAD) else _PREFIXES[part][0] + name


def is_computed(foreign: str) -> bool:
    """Whether a stored tensor can be ignored because it follows from the config."""
    return foreign.endswith(_COMPUTED)


def encoder_names(part: Part, stored: Iterable[str]) -> dict[str, str]:
    """Our names -> names in an encoder's own folder; empty if it holds no such encoder."""
    names = list(stored)
    for name in names:
        for first in _FIRST_TENSORS[part]:
            if name == first or name.endswith(f".{first}"):
                prefix = name.removesuffix(first)
                return {each.removeprefix(prefix): each for each in names if each.startswith(prefix)}
    return {}


def own_adapter_name(foreign: str) -> str | None:
    """`base_model.model.model.layers.0.mlp.up_proj.lora_A.weight` -> `layers.0.mlp.up_proj.lora_A.weight`."""
    if not foreign.startswith(_PEFT_PREFIX):
        return None
    # PEFT omits the adapter's name when it saves; state dicts of the model in memory contain it.
    own = own_name(foreign.removeprefix(_PEFT_PREFIX).replace(".default.weight", ".weight"))
    return own.name if own and own.part == "language" else None


def peft_name(name: str) -> str:
    """The inverse."""
    return _PEFT_PREFIX + published_name("language", name)


def own_trainable_name(foreign: str) -> str | None:
    """A key of `non_lora_trainables.bin` -> a name in the speech projector; None for anything else.

    The wrappers of DeepSpeed and PEFT prepend prefixes of their own.
    """
    for wrapper in (_PEFT_PREFIX, "model.", ""):
        own = own_name(foreign.removeprefix(wrapper))
        if foreign.startswith(wrapper) and own and own.part == "speech_projector":
            return own.name
    return None


def published_trainable_name(name: str) -> str:
    """The inverse."""
    return "model." + published_name("speech_projector", name)
