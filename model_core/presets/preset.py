"""What a preset is: a name, where its weights come from, and a builder for each of its parts.

Cheap to import: whatever needs torch is behind a callable.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from model_core.checkpoints.packages import PackagedPart
from model_core.errors import InvalidInput, WeightsMissing

if TYPE_CHECKING:
    import torch

    from model_core.engine.language_model import LanguageModel
    from model_core.presets.method import PublishedArchitecture
    from model_core.presets.stages import StageTable
    from model_core.speech.character_unit_generator import CharacterUnitGenerator
    from model_core.speech.encoder import SpeechEncoder
    from model_core.speech.unit_generator import UnitGenerator
    from model_core.speech.voice import Voice
    from model_core.vision.encoder import VisionEncoder

    UnitGeneratorConfig = UnitGenerator.Config | CharacterUnitGenerator.Config


class WeightSource(StrEnum):
    """Where the weights of a preset come from."""

    PACKAGES = "packages"  # released packages that `lyra weights pull` downloads and converts
    CHECKPOINT = "checkpoint"  # a folder in the published layout that the user names
    RANDOM = "random"  # drawn when a part is built, the same every time; for tests


class _Shipped(Enum):
    PARTS = auto()


# In place of a folder of trained parts: those shipped with the preset, where it has any.
SHIPPED = _Shipped.PARTS
PartsFolder = Path | _Shipped | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How a part is built.

    Attributes:
        home: Cache of pulled weights.
        parts: Folder of parts trained here; None builds the open models without them.
        checkpoint: Folder in the published layout.
        device: Where the weights are and the model runs: `cpu`, `cuda`, `cuda:1` or the like; `auto` is the first GPU,
            or the CPU where there is none.
        fast: The speech encoder is for serving: in the fastest number format of the device.
        threads: CPU threads of a voice that runs on ONNX Runtime.
    """

    home: Path
    parts: Path | None = None
    checkpoint: Path | None = None
    device: "torch.device | str" = "cpu"
    fast: bool = False
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredMemory:
    """Peak resident memory in MiB, by component of the chart, and MiB of the weights on disk."""

    components: Mapping[str, int]
    disk: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A named set of models that fit together. A part that it lacks is None.

    Attributes:
        name: As in `LYRA_PRESET` and `--preset`.
        description: What it is, in a line.
        weights: Where the weights come from.
        speech_encoder, vision_encoder, language_model, voice: Build that part.
        packages: The packages of its open weights, by part.
        shipped_parts: Folder of the trained parts in this repository.
        architecture: Shapes of all parts, of a preset in the published layout: only these take a checkpoint.
        training: Hyperparameters of each training stage.
        unit_generator: Shape of the speech generator that stage 4 trains.
        memory: Measured; None where it follows from the architecture (docs/preset_memory.py).
        licence: Of the language model, as Hugging Face writes it.
    """

    name: str
    description: str
    weights: WeightSource
    speech_encoder: "Callable[[BuildOptions], SpeechEncoder] | None" = None
    vision_encoder: "Callable[[BuildOptions], VisionEncoder] | None" = None
    language_model: "Callable[[BuildOptions], LanguageModel] | None" = None
    voice: "Callable[[BuildOptions], Voice] | None" = None
    packages: Mapping[str, PackagedPart] = field(default_factory=dict)
    shipped_parts: Path | None = None
    architecture: "Callable[[], PublishedArchitecture] | None" = None
    training: "Callable[[], StageTable] | None" = None
    unit_generator: "Callable[[], UnitGeneratorConfig] | None" = None
    memory: MeasuredMemory | None = None
    licence: str = "apache-2.0"

    def check_checkpoint(self, checkpoint: Path | None) -> None:
        """Raises WeightsMissing if a required checkpoint is missing, InvalidInput if the preset takes none."""
        if checkpoint is None and self.weights is WeightSource.CHECKPOINT:
            raise WeightsMissing(
                f"preset {self.name} requires a checkpoint: set LYRA_CHECKPOINT or --checkpoint to its folder"
            )
        if checkpoint is not None and self.architecture is None:
            raise InvalidInput("checkpoint", f"preset {self.name} has its own weights and takes no checkpoint")

    def parts_folder(self, parts: PartsFolder) -> Path | None:
        """The folder of trained parts that `parts` stands for."""
        return self.shipped_parts if isinstance(parts, _Shipped) else parts
