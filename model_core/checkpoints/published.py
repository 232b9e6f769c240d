"""Published Lyra checkpoints: a Hugging Face folder with the parts of a whole model (see `docs/checkpoints.md`).

Opening one reads its config and the headers of its files. Each part is then loaded into one of our modules, tensor by
tensor, once its names and shapes have been checked: completely or not at all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_core.checkpoints.peft_adapters import CONFIG_FILE as ADAPTER_CONFIG_FILE
from model_core.checkpoints.published_config import PublishedConfig, parse_config, read_config
from model_core.checkpoints.published_names import (
    ADAPTER_FOLDERS,
    VOCODER_FILE,
    VOCODER_FOLDER,
    Part,
    encoder_names,
    is_computed,
    own_name,
    published_name,
)
from model_core.checkpoints.published_shapes import projector_config
from model_core.checkpoints.tensors import StoredTensor, index_folder, read_json, stream, unpickle_any
from model_core.errors import CheckpointError
from model_core.speech.projector import SpeechProjector

_HEAD = "lm_head.weight"
_TOKENIZER_FILE, _OLD_TOKENIZER_FILES = "tokenizer.json", ("vocab.json", "merges.txt")


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint:
    """An opened folder, of which no weights have been read.

    Attributes:
        folder: Its path.
        fields: Its `config.json`, unchanged.
        config: The parsed config.
        tensors: The tensors of each part, by their names in our modules.
        unknown: Stored tensors that belong to no part; if there are any, nothing can be loaded.
    """

    folder: Path
    fields: Mapping[str, Any]
    config: PublishedConfig
    tensors: Mapping[Part, Mapping[str, StoredTensor]]
    unknown: tuple[str, ...]

    @property
    def speech_projector(self) -> SpeechProjector.Config | None:
        """Shape of the base model's speech projector, None without one. Raises CheckpointError if it does not fit."""
        stored = self.tensors.get("speech_projector")
        return projector_config(self.config, stored) if stored and self.config.speech_tower else None

    def adapter_folders(self) -> dict[str, Path]:
        """Folders of the adapters that exist, by our names of the adapters."""
        folders = {name: self.folder / folder for folder, name in ADAPTER_FOLDERS.items()}
        return {name: folder for name, folder in folders.items() if (folder / ADAPTER_CONFIG_FILE).is_file()}

    def vocoder_file(self) -> Path | None:
        """The vocoder's weights, in a folder inside this one or next to it; None if there are none."""
        places = (root / VOCODER_FOLDER / VOCODER_FILE for root in (self.folder, self.folder.parent))
        return next((place for place in places if place.is_file()), None)

    def encoder_folder(self, part: Part) -> Path | None:
        """Folder of an encoder that the config names, inside this one or next to it; None if there is none."""
        name = {"vision_tower": self.config.vision_tower, "speech_tower": self.config.speech_tower}.get(part)
        places = (root / name for root in (self.folder, self.folder.parent) if name)
        return next((place for place in places if place.is_dir()), None)

    def stored(self, part: Part) -> dict[str, StoredTensor]:
        """A part's tensors; those of an encoder that the checkpoint does not include are in the encoder's own folder.

        Raises:
            CheckpointError: There is no such folder, or it holds no such encoder.
        """
        found = dict(self.tensors.get(part, {}))
        tower = {"vision_tower": self.config.vision_tower, "speech_tower": self.config.speech_tower}.get(part)
        if part == "language" and self.config.language.tied_output:
            # The embedding table is the output layer; some checkpoints store a copy of it.
            found.pop(_HEAD, None)
        if found or not tower:
            return found
        folder = self.encoder_folder(part)
        if folder is None:
            raise CheckpointError(tower, f"is missing: there is no such folder inside {self.folder} or next to it")
        available = index_folder(folder)
        found = {
            name: available[there] for name, there in encoder_names(part, available).items() if not is_computed(there)
        }
        if not found:
            raise CheckpointError(tower, f"holds no {part}")
        return found

    def check(self, part: Part, module: nn.Module) -> dict[str, StoredTensor]:
        """Finds the stored tensor for each of a module's, from headers; the module may be on the meta device.

        Raises:
            CheckpointError: A tensor is unknown, missing or has the wrong shape.
        """
        if self.unknown:
            raise CheckpointError(self.unknown[0], f"is unknown ({len(self.unknown)} tensors in total)")
        stored = self.stored(part)
        problems = list(problems_of(part, module.state_dict(), stored))
        if problems:
            more = f" ({len(problems)} tensors in total)" if len(problems) > 1 else ""
            raise CheckpointError(problems[0].name, problems[0].message + more)
        return stored

    def load_into(
        self, module: nn.Module, part: Part, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        """Loads the weights of a part into a module, usually one on the meta device.

        Raises:
            CheckpointError: A tensor is unknown, missing, has the wrong shape or holds no finite floats; the module is
                unchanged.
        """
        stored = self.check(part, module)
        module.load_state_dict({name: tensor.to(device) for name, tensor in stream(stored, dtype)}, assign=True)


def open_checkpoint(folder: Path) -> PublishedCheckpoint:
    """Opens a folder: its config and the headers of its files.

    Raises:
        CheckpointError: The config is another model's, or a file is missing, truncated or of another kind.
    """
    if not folder.is_dir():
        raise CheckpointError(str(folder), "is not a folder")
    fields = read_config(folder)
    config = parse_config(fields)
    parts: dict[Part, dict[str, StoredTensor]] = {}
    unknown = []
    for foreign, stored in index_folder(folder).items():
        own = own_name(foreign)
        if own is None:
            if not is_computed(foreign):
                unknown.append(foreign)
        elif not is_computed(foreign):
            tensors = parts.setdefault(own.part, {})
            if own.name in tensors:
                raise CheckpointError(foreign, f"is the same tensor as {tensors[own.name].name}")
            tensors[own.name] = stored
    return PublishedCheckpoint(folder, fields, config, parts, tuple(unknown))


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint: `tokenizer.json`, or Qwen2's older `vocab.json`, `merges.txt` and added tokens.

    Raises:
        CheckpointError: Neither exists, or it cannot be read.
    """
    if not (folder / _TOKENIZER_FILE).is_file():
        for older in _OLD_TOKENIZER_FILES:
            if not (folder / older).is_file():
                raise CheckpointError(_TOKENIZER_FILE, f"is missing from {folder}, and so is {older}")
    try:
        if (folder / _TOKENIZER_FILE).is_file():
            return Tokenizer.from_file(str(folder / _TOKENIZER_FILE))
        # Imported here: transformers takes seconds, and only the older format needs it.
        from transformers import Qwen2Tokenizer

        read: Tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as broken:  # the tokenizers library raises nothing more specific
        raise CheckpointError(_TOKENIZER_FILE, f"of {folder} cannot be read: {broken}") from broken
    for token, index in _added_tokens(folder).items():
        if read.token_to_id(token) != index:
            message = f"{token} should be token {index}, but is read as {read.token_to_id(token)}"
            raise CheckpointError(f"tokenizer_config.json: {token}", message)
    return read


def read_vocoder(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The generator's tensors and the config of a code-HiFi-GAN vocoder.

    Args:
        path: The file `g_00500000`, or its folder.

    Raises:
        CheckpointError: The file is truncated or holds something else, or there is no `config.json` next to it.
    """
    file = path / VOCODER_FILE if path.is_dir() else path
    config = read_json(file.with_name("config.json"))
    held = unpickle_any(file)
    generator = held.get("generator") if isinstance(held, dict) else None
    if not isinstance(generator, dict):
        raise CheckpointError(file.name, "holds no state dict under 'generator'")
    for name, tensor in generator.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise CheckpointError(f"{file.name}: {name}", f"is of type {type(tensor).__name__}, not a tensor of floats")
    return {name: tensor.clone() for name, tensor in generator.items()}, config


def problems_of(
    part: Part, wanted: Mapping[str, Tensor], stored: Mapping[str, StoredTensor]
) -> Iterator[CheckpointError]:
    """Every tensor of a part that is missing, unknown or has the wrong shape."""
    for name, own in wanted.items():
        if name not in stored:
            yield CheckpointError(published_name(part, name), "is missing")
        elif stored[name].shape != tuple(own.shape):
            shapes = f"has the shape {list(stored[name].shape)}, where this model has {list(own.shape)}"
            yield CheckpointError(stored[name].name, shapes)
    for name in stored.keys() - wanted.keys():
        yield CheckpointError(stored[name].name, "is unknown: this model has no such tensor")


def _added_tokens(folder: Path) -> dict[str, int]:
    """Tokens beyond the vocabulary, from either of the files in which transformers stores them."""
    added: dict[str, int] = {}
    for file, field in (("added_tokens.json", None), ("tokenizer_config.json", "added_tokens_decoder")):
        if not (folder / file).is_file():
            continue
        read = read_json(folder / file)
        try:
            added |= read if field is None else {each["content"]: int(at) for at, each in read.get(field, {}).items()}
        except (AttributeError, KeyError, TypeError, ValueError) as wrong:
            raise CheckpointError(f"{file}: {field}", "is not a table of tokens") from wrong
    return added
