"""Stage 4: a generator learns speech units from the hidden states of answers, with CTC (Lyra, section 3.5).

`UnitGeneratorModule` is the published method: a generator on the frozen language model's last hidden states.
`CharacterUnitModule` is nano's: its generator uses only the token of a hidden state, so no pass through the language
model is needed; the half of the vocoder that maps units to latents of the voice's HiFi-GAN is trained with it, on the
data's codebook.

Shapes: B samples, L positions or answer tokens, N units, T frames of a crop, C latents.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model_core.data.conversation import Conversation
from model_core.data.dataset import ConversationDataset
from model_core.data.files import written_aside
from model_core.errors import InvalidInput
from model_core.language.decoder import Decoder
from model_core.presets.nano_voice import GENERATOR_FILE, TRAINED_HALF, VOCODER_FILE
from model_core.speech.character_unit_generator import CharacterUnitGenerator
from model_core.speech.codebook import Codebook
from model_core.speech.streaming import Past, run
from model_core.speech.unit_generator import UnitGenerator
from model_core.speech.vocoder import UnitVocoder
from model_core.training.dataset import StageDataset
from model_core.training.examples import IGNORED, Batch, Example, ExampleMaker, collate
from model_core.training.features import Encoders, Features
from model_core.training.options import Source
from model_core.training.stage_module import StageModule

_CROP_FRAMES = 96


@dataclass(frozen=True, slots=True)
class UnitExample:
    """One sample of speech-generation data.

    Attributes:
        number: Its index.
        example: The language model's input.
        units: [N] int64, the units of all its answers.
    """

    number: int
    example: Example
    units: Tensor


class UnitDataset(StageDataset):
    """Text conversations with the units of their answers, held in memory.

    Args:
        sources: Data sets.
        maker: Turns samples into examples.

    Raises:
        InvalidInput: a folder is not a data set.
    """

    def __init__(self, sources: Sequence[Source], maker: ExampleMaker) -> None:
        super().__init__(sources, Encoders(None, None), maker, cached=False)
        self._units = [
            [_units(conversation) for conversation in ConversationDataset(source.folder)] for source in sources
        ]

    def check_units(self, units: int) -> None:
        """Raises InvalidInput, naming the sample, if a unit is not less than `units`."""
        for sample, (source, row) in zip(self.samples, self._places, strict=True):
            largest = int(self._units[source][row].max(initial=0))
            if largest >= units:
                raise InvalidInput(f"sample {sample.id}, units", f"{largest} is beyond the generator's {units} units")

    def __getitem__(self, index: int) -> UnitExample:  # type: ignore[override]
        source, row = self._places[index]
        example = self.maker(self.samples[index], Features())
        return UnitExample(index, example, torch.from_numpy(self._units[source][row]).long())


def _units(conversation: Conversation) -> NDArray[np.int32]:
    return np.array([unit for answer in conversation.units for unit in answer], np.int32)


class UnitGeneratorModule(StageModule):
    """Stage 4 of the published method.

    Args:
        decoder: The language model's, frozen.
        generator: The generator to train.
        stop_tokens: Tokens whose hidden states are not spoken.
    """

    part_weights: Mapping[str, float] = {"ctc_loss": 1.0}

    def __init__(self, decoder: Decoder, generator: UnitGenerator, stop_tokens: Sequence[int]) -> None:
        super().__init__()
        self.decoder = decoder.requires_grad_(False)
        self.generator = generator
        self._stop_tokens = tuple(stop_tokens)

    def forward(self, ids: Tensor, labels: Tensor, positions: Tensor, units: Tensor, **_: Tensor) -> dict[str, Tensor]:
        """A batch of `collate_units`. Returns `loss` and `ctc_loss`, the mean over its units."""
        with torch.no_grad():
            where = positions.permute(2, 0, 1) if self.decoder.config.rope_sections else None
            hidden_BLE = self.decoder(self.decoder.embed_tokens(ids), positions=where)
        for token in self._stop_tokens:
            labels = labels.masked_fill(labels == token, IGNORED)
        loss = self.generator.loss(hidden_BLE, labels, units)
        return {"loss": self.weighted({"ctc_loss": loss}), "ctc_loss": loss}

    def counts(self, batch: Batch) -> Mapping[str, Tensor]:
        """The batch's units."""
        return {"ctc_loss": (batch["units"] != IGNORED).sum()}


def collate_units(examples: Sequence[UnitExample]) -> Batch:
    """`examples.collate`, and `units` [B, N] padded with IGNORED."""
    units_BN = pad_sequence([e.units for e in examples], batch_first=True, padding_value=IGNORED)
    return collate([e.example for e in examples]) | {"units": units_BN}


class CharacterUnitModule(StageModule):
    """Nano's stage 4.

    Args:
        generator: The generator to train, with the characters of the vocabulary.
        vocoder: Units, durations and renderer are trained; the voice's HiFi-GAN is frozen.
        codebook: Initial unit embeddings.
    """

    part_weights: Mapping[str, float] = {"ctc_loss": 1.0, "latent_loss": 1.0, "duration_loss": 1.0}

    def __init__(self, generator: CharacterUnitGenerator, vocoder: UnitVocoder, codebook: Codebook) -> None:
        super().__init__()
        renderer = vocoder.renderer
        if renderer is None or vocoder.dur_predictor is None:
            raise InvalidInput("preset", "its vocoder has no renderer or no durations to train")
        if codebook.centroids_UC.shape != vocoder.dict.weight.shape:
            shapes = list(codebook.centroids_UC.shape), list(vocoder.dict.weight.shape)
            raise InvalidInput("data", f"the codebook has shape {shapes[0]}, the vocoder's units {shapes[1]}")
        self.generator = generator
        self.vocoder = vocoder.requires_grad_(False)
        for name, parameter in vocoder.named_parameters():
            parameter.requires_grad_(name.startswith(TRAINED_HALF))
        self._renderer, self._durations = renderer, vocoder.dur_predictor
        with torch.no_grad():
            vocoder.dict.weight.copy_(codebook.centroids_UC)
            renderer.mean.copy_(codebook.mean_C)
            renderer.deviation.copy_(codebook.deviation_C)

    def forward(
        self,
        tokens: Tensor,
        token_counts: Tensor,
        units: Tensor,
        crop_units: Tensor,
        latents: Tensor,
        read_units: Tensor,
        durations: Tensor,
    ) -> dict[str, Tensor]:
        """A batch of `CharacterUnitCollate`.

        Returns:
            `loss` and its parts: `ctc_loss`, the mean over the answers' units; `latent_loss`, the mean L1 distance of
            latents in standard deviations; `duration_loss`, the mean squared error of log(1 + frames).
        """
        answers = [row[:count] for row, count in zip(tokens, token_counts.tolist(), strict=True)]
        parts = {
            "ctc_loss": self.generator.loss(answers, [row[row != IGNORED] for row in units]),
            "latent_loss": self._latent_loss(crop_units, latents),
            "duration_loss": self._duration_loss(read_units, durations),
        }
        return {"loss": self.weighted(parts), **parts}

    def counts(self, batch: Batch) -> Mapping[str, int | Tensor]:
        """Units of the answers, values of the latents, units of the utterances."""
        return {
            "ctc_loss": (batch["units"] != IGNORED).sum(),
            "latent_loss": batch["latents"].numel(),
            "duration_loss": (batch["read_units"] != IGNORED).sum(),
        }

    def write(self, folder: Path) -> None:
        """Writes the trained parts: float16, the vocoder without its HiFi-GAN."""
        half = {name: x for name, x in self.vocoder.state_dict().items() if name.startswith(TRAINED_HALF)}
        for name, tensors in ((GENERATOR_FILE, self.generator.state_dict()), (VOCODER_FILE, half)):
            with written_aside(folder / name) as partial:
                save_file({key: _stored(tensor) for key, tensor in tensors.items()}, partial)

    def _latent_loss(self, crop_units_BT: Tensor, latents_BTC: Tensor) -> Tensor:
        embedded = [row.T for row in self.vocoder.dict(crop_units_BT)]
        rows = len(embedded)
        late = self._renderer.stack.delay
        rendered, _ = run(self._renderer.standardised, [Past() for _ in range(rows)], embedded, [True] * rows, late)
        return F.l1_loss(torch.stack(rendered).transpose(1, 2).float(), latents_BTC)

    def _duration_loss(self, read_units_BN: Tensor, durations_BN: Tensor) -> Tensor:
        embedded = [self.vocoder.dict(row[row != IGNORED]).T for row in read_units_BN]
        rows = len(embedded)
        logs, _ = run(self._durations, [Past() for _ in range(rows)], embedded, [True] * rows, self._durations.delay)
        found_N = torch.cat([each.flatten() for each in logs])
        return F.mse_loss(found_N.float(), durations_BN[read_units_BN != IGNORED].float().log1p())


class CharacterUnitCollate:
    """Batches for `CharacterUnitModule`: answers with their units, and for each an utterance and a crop of one.

    Args:
        codebook: The data set's codebook.
        stop_tokens: Tokens that end an answer and are not spoken.
        seed: Seed of the choice of crops.
    """

    def __init__(self, codebook: Codebook, stop_tokens: Sequence[int], seed: int = 0) -> None:
        self._stop_tokens = tuple(stop_tokens)
        self._readings = codebook.utterances()
        self._seed = seed

    def __call__(self, examples: Sequence[UnitExample]) -> Batch:
        """The arguments of `CharacterUnitModule.forward`."""
        tokens = [answer_tokens(e.example, self._stop_tokens) for e in examples]
        crops = [self._crop(e.number) for e in examples]
        readings = [self._readings[e.number % len(self._readings)] for e in examples]
        return {
            "tokens": pad_sequence(tokens, batch_first=True),
            "token_counts": torch.tensor([len(each) for each in tokens]),
            "units": pad_sequence([e.units for e in examples], batch_first=True, padding_value=IGNORED),
            "crop_units": torch.stack([units_T for units_T, _ in crops]),
            "latents": torch.stack([latents_TC for _, latents_TC in crops]),
            "read_units": pad_sequence([r[0] for r in readings], batch_first=True, padding_value=IGNORED),
            "durations": pad_sequence([r[1] for r in readings], batch_first=True),
        }

    def _crop(self, number: int) -> tuple[Tensor, Tensor]:
        """Unit of each frame [T] and latents [T, C] of a random crop; utterances shorter than a crop are repeated."""
        rng = random.Random(f"{self._seed} {number}")
        units_N, durations_N, latents_TC = self._readings[rng.randrange(len(self._readings))]
        units_T = units_N.repeat_interleave(durations_N)
        times = -(-_CROP_FRAMES // len(units_T))
        units_T, latents_TC = units_T.repeat(times), latents_TC.repeat(times, 1)
        start = rng.randrange(len(units_T) - _CROP_FRAMES + 1)
        return units_T[start : start + _CROP_FRAMES], latents_TC[start : start + _CROP_FRAMES]


def answer_tokens(example: Example, stop_tokens: Sequence[int]) -> Tensor:
    """[L] int64: the answers' tokens without stop tokens."""
    spoken = example.labels != IGNORED
    for token in stop_tokens:
        spoken &= example.labels != token
    return example.labels[spoken]


def _stored(tensor: Tensor) -> Tensor:
    stored = tensor.detach().cpu()
    return (stored.to(torch.float16) if stored.is_floating_point() else stored).contiguous()
