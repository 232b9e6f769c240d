"""Stage 4: what is trained, what is frozen, and what is written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model_core.data.conversation import Conversation, Turn
from model_core.data.shards import Manifest, write_manifest, write_shard
from model_core.errors import InvalidInput
from model_core.language.chat_template import CHATML
from model_core.language.messages import Role
from model_core.presets import build_language_model, tiny
from model_core.speech.character_unit_generator import CharacterUnitGenerator
from model_core.speech.codebook import Codebook, read_codebook, write_codebook
from model_core.speech.latents import Utterance
from model_core.speech.phone_units import PHONES
from model_core.speech.streaming import Layer
from model_core.speech.unit_generator import UnitGenerator
from model_core.speech.vocoder import DurationPredictor, FrameRenderer, UnitVocoder
from model_core.training.examples import ExampleMaker
from model_core.training.options import Source
from model_core.training.speech_generator import (
    CharacterUnitCollate,
    CharacterUnitModule,
    UnitDataset,
    UnitGeneratorModule,
    collate_units,
)

LATENTS = 4
TEXTS = ("Yes.", "No way.", "Perhaps.")
LAYERS = (Layer(kernel=3, ahead=1), Layer(kernel=3, dilation=2, ahead=1))


@pytest.fixture
def dataset(tmp_path: Path) -> UnitDataset:
    samples = [
        Conversation(
            id=f"s{number}",
            turns=(Turn(role=Role.USER, text="Say it."), Turn(role=Role.ASSISTANT, text=text)),
            units=(tuple(range(number, number + 3)),),
        )
        for number, text in enumerate(TEXTS)
    ]
    entry = write_shard(tmp_path, 0, samples)
    write_manifest(
        tmp_path, Manifest(kind="speech-generation", name="t", seed=0, spec={}, versions={}, shards=(entry,))
    )
    return UnitDataset([Source(tmp_path)], ExampleMaker(tiny.tokenizer(), CHATML, 4))


@pytest.fixture
def codebook(tmp_path: Path) -> Codebook:
    rng = np.random.default_rng(0)
    readings = [
        Utterance(rng.standard_normal((60, LATENTS)).astype(np.float32), (3, 9, 4), (20, 30, 10)),
        Utterance(rng.standard_normal((120, LATENTS)).astype(np.float32), (9, 5), (70, 50)),
    ]
    write_codebook(tmp_path / "codebook.safetensors", readings)
    return read_codebook(tmp_path / "codebook.safetensors")


def stop_tokens() -> list[int]:
    found = [tiny.tokenizer().token_to_id(token) for token in CHATML.stop_tokens]
    return [token for token in found if token is not None]


def spelled(codebook: Codebook) -> CharacterUnitModule:
    torch.manual_seed(0)
    tokenizer, units = tiny.tokenizer(), len(PHONES)
    generator = CharacterUnitGenerator.Config(
        hidden_width=16, vocabulary=320, units=units, width=8, frames=4, layers=LAYERS, dropout=0.0
    ).build()
    generator.spelling_VT[: tokenizer.get_vocab_size()] = torch.arange(tokenizer.get_vocab_size())[:, None] % 96
    vocoder = UnitVocoder.Config(
        units=units,
        embedding_width=LATENTS,
        duration=DurationPredictor.Config(width=LATENTS, hidden_width=4),
        renderer=FrameRenderer.Config(width=LATENTS, latents=LATENTS, layers=LAYERS),
        channels=4,
        upsample_rates=(2,),
        upsample_kernels=(4,),
        block_kernels=(3,),
        block_dilations=((1,),),
        paired=False,
    ).build()
    return CharacterUnitModule(generator, vocoder, codebook)


def test_the_end_token_of_an_answer_is_left_out(dataset: UnitDataset, codebook: Codebook) -> None:
    batch = CharacterUnitCollate(codebook, stop_tokens())([dataset[1], dataset[0]])
    assert batch["token_counts"].tolist() == [len(TEXTS[1]), len(TEXTS[0])]
    assert tiny.tokenizer().decode(batch["tokens"][0].tolist()) == TEXTS[1]
    assert batch["units"].tolist() == [[1, 2, 3], [0, 1, 2]]
    assert batch["crop_units"].shape == (2, 96)
    assert batch["latents"].shape == (2, 96, LATENTS)


def test_nanos_stage_trains_units_latents_and_durations(dataset: UnitDataset, codebook: Codebook) -> None:
    module = spelled(codebook).train()
    batch = CharacterUnitCollate(codebook, stop_tokens())([dataset[row] for row in range(len(dataset))])
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 0.03)
    losses = []
    for _ in range(60):
        found = module(**batch)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append({name: value.item() for name, value in found.items()})
    assert losses[-1]["ctc_loss"] < 0.3 * losses[0]["ctc_loss"]
    assert losses[-1]["latent_loss"] < losses[0]["latent_loss"]
    assert losses[-1]["duration_loss"] < 0.3 * losses[0]["duration_loss"]
    assert module.counts(batch)["ctc_loss"] == 9


def test_the_voices_hifigan_is_frozen(codebook: Codebook) -> None:
    learns = {
        name.split(".")[1] for name, p in spelled(codebook).vocoder.named_parameters(prefix="v") if p.requires_grad
    }
    assert learns == {"dict", "dur_predictor", "renderer"}


def test_units_start_from_the_codebook_and_complete_parts_are_written(tmp_path: Path, codebook: Codebook) -> None:
    module = spelled(codebook)
    torch.testing.assert_close(module.vocoder.dict.weight.data, codebook.centroids_UC)
    module.write(tmp_path / "parts")
    written = {path.name: load_file(path) for path in (tmp_path / "parts").iterdir()}
    assert sorted(written) == ["generator.safetensors", "vocoder.safetensors"]
    assert {name.split(".")[0] for name in written["vocoder.safetensors"]} == {"dict", "dur_predictor", "renderer"}
    assert written["generator.safetensors"]["spelling_VT"].dtype == torch.uint8
    assert written["generator.safetensors"]["out.weight"].dtype == torch.float16


def test_the_published_stage_trains_on_the_hidden_states_of_the_answer(dataset: UnitDataset) -> None:
    torch.manual_seed(0)
    decoder = build_language_model("tiny").decoder
    config = UnitGenerator.Config(hidden_width=16, layers=1, width=16, heads=2, feed_forward=16, upsample=6, units=8)
    module = UnitGeneratorModule(decoder, config.build(), stop_tokens())
    batch = collate_units([dataset[row] for row in range(len(dataset))])
    before = decoder.embed_tokens.weight.clone()
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 0.01)
    losses = []
    for _ in range(40):
        loss = module(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert torch.equal(decoder.embed_tokens.weight, before)
    assert not any(p.requires_grad for p in decoder.parameters())


def test_padding_of_a_batch_changes_no_loss(dataset: UnitDataset, codebook: Codebook) -> None:
    module, collate = spelled(codebook).eval(), CharacterUnitCollate(codebook, stop_tokens())
    together = module(**collate([dataset[0], dataset[1]]))["ctc_loss"]
    alone = [module(**collate([dataset[row]]))["ctc_loss"] for row in range(2)]
    torch.testing.assert_close(together, torch.stack(alone).mean())  # both have three units


def test_a_vocoder_without_a_renderer_has_nothing_to_train(codebook: Codebook) -> None:
    module = spelled(codebook)
    module.vocoder.renderer = None
    with pytest.raises(InvalidInput, match="renderer"):
        CharacterUnitModule(module.generator, module.vocoder, codebook)
