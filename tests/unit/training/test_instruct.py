"""Stages 2 and 3: what is trained, and the loss of a batch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model_core.data.rows import to_light_sample, to_row
from model_core.errors import InvalidInput
from model_core.language.decoder import Decoder
from model_core.language.extractor import MIN_CONTEXT_TOKENS, ExtractionConfig
from model_core.language.lora import PROJECTIONS, LoraConfig
from model_core.presets import tiny
from model_core.speech.projector import SpeechProjector
from model_core.training.assembly import build_projectors
from model_core.training.examples import Batch, Example, collate
from model_core.training.instruct import Instruct
from model_core.training.lora_training import add_adapter
from model_core.training.options import Start
from model_core.training.preset_models import load_models, stage_of
from model_core.training.projectors import Projectors, SpeechTokens
from tests.training_runs import instruct_samples, to_examples


def decoder() -> Decoder:
    torch.manual_seed(0)
    return tiny.LANGUAGE.build().requires_grad_(False)


# A speech projector that detects pauses.
PAUSES = replace(tiny.SPEECH_ENCODER.projector, context_layers=1, context_width=16, pieces=200)


def instruct(
    regularizer: float = 0.0,
    extraction: ExtractionConfig | None = None,
    projector: SpeechProjector.Config = tiny.SPEECH_ENCODER.projector,
) -> Instruct:
    """A module with an adapter that has an effect."""
    adapted = decoder()
    add_adapter(adapted, "speech", LoraConfig(rank=2, alpha=4), PROJECTIONS, None)
    speech, vision = projector.build(), tiny.VISION_ENCODER.projector.build()
    if speech.pieces_VE is not None:
        torch.nn.init.normal_(speech.pieces_VE)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return Instruct(adapted, Projectors(speech, vision), regularizer, extraction)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return to_examples(instruct_samples(3))


def test_adapter_and_projectors_are_trained_and_the_base_is_frozen(examples: list[Example]) -> None:
    module = instruct(regularizer=0.5)
    module(**collate(examples))["loss"].backward()
    learning = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert learning == {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.startswith("projectors.") for name in learning)
    kinds = {name.split(".")[1] for name in learning if name.startswith("projectors.")}
    assert kinds == {"speech", "vision"}
    layers = tiny.LANGUAGE.layers
    assert sum("lora_" in name for name in learning) == 2 * len(PROJECTIONS) * layers


def test_the_regularizer_is_added_with_its_weight(examples: list[Example]) -> None:
    plain, regularized = instruct(), instruct(regularizer=0.5)
    regularized.load_state_dict(plain.state_dict())
    batch = collate(examples)
    alone, both = plain(**batch), regularized(**batch)
    assert "regularizer_loss" not in alone
    assert both["answer_loss"].item() == pytest.approx(alone["answer_loss"].item())
    assert both["regularizer_loss"].item() > 0
    assert both["loss"].item() == pytest.approx(both["answer_loss"].item() + 0.5 * both["regularizer_loss"].item())


def test_recordings_without_a_transcript_are_not_regularized(examples: list[Example]) -> None:
    module = instruct(regularizer=0.5)
    batch = collate(examples)
    batch["transcript_lengths"] = torch.zeros_like(batch["transcript_lengths"])
    outputs = module(**batch)
    assert outputs["regularizer_loss"].item() == 0
    assert module.counts(batch)["regularizer_loss"] == 0


@pytest.mark.parametrize("extraction", [None, ExtractionConfig(blocks=2, keep_rate=0.5)])
def test_pauses_leave_no_trace_in_the_loss(
    extraction: ExtractionConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, models = instruct(extraction=extraction, projector=PAUSES).eval(), load_models("tiny", None, None)
    projector = module.projectors.speech
    assert projector is not None
    whole, short, heard = [], [], []
    for conversation in instruct_samples(3):
        sample, features = to_light_sample(to_row(conversation)), models.encoders.features(conversation)
        whole.append(models.maker(sample, features))
        heard.append(projector.read(features.clips[0][0].float()))
        assert 0 < len(heard[-1]) < whole[-1].speech.sum()
        # A recording with exactly the remaining number of speech tokens.
        frames = torch.zeros(len(heard[-1]) * PAUSES.group, PAUSES.encoder_width)
        short.append(models.maker(sample, replace(features, clips=((frames,),))))
    found = module(**collate(whole))["loss"]
    own = torch.arange(max(map(len, heard))) < torch.tensor([[len(each)] for each in heard])
    tokens = SpeechTokens(pad_sequence(heard, batch_first=True), own, None)
    monkeypatch.setattr(module.projectors, "speech_tokens", lambda frames, lengths: tokens)
    assert found.item() == pytest.approx(module(**collate(short))["loss"].item(), rel=1e-4)


def test_a_projector_that_detects_pauses_must_have_been_aligned() -> None:
    models, stage = load_models("tiny", None, None), stage_of("tiny", "instruct")
    models.speech.config = replace(models.speech.config, projector=PAUSES)
    with pytest.raises(InvalidInput, match="lyra train align"):
        build_projectors(models, stage, Start())
    assert build_projectors(models, stage, Start(freeze=("speech",))).speech is not None  # nothing is heard


def sharded(module: Instruct, examples: list[Example], shares: list[list[int]]) -> dict[str, float]:
    """Parts of the loss of a batch, from those of its shares and how much each counts."""
    batches: list[Batch] = [collate([examples[row] for row in share]) for share in shares]
    totals = torch.stack([module.totals(batch) for batch in batches])
    values = torch.stack([torch.stack([module(**b)[name] for name in module.part_weights]) for b in batches])
    means = (values * totals).sum(0) / totals.sum(0)
    return dict(zip(module.part_weights, means.tolist(), strict=True))


def test_losses_of_batch_shards_are_combined_by_count(examples: list[Example]) -> None:
    module = instruct(regularizer=0.5)
    whole = module(**collate(examples))
    for shares in ([[0], [1, 2]], [[2], [0], [1]]):
        parts = sharded(module, examples, shares)
        assert parts == pytest.approx({name: whole[name].item() for name in parts}, rel=1e-4)


def gradients(module: Instruct, batch: Batch) -> dict[str, Tensor]:
    module.zero_grad()
    module(**batch)["loss"].backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_recomputed_activations_give_the_same_gradients(examples: list[Example]) -> None:
    module, batch = instruct(regularizer=0.5), collate(examples)
    kept = gradients(module, batch)
    module.activation_checkpointing_enable()
    for name, gradient in gradients(module, batch).items():
        torch.testing.assert_close(gradient, kept[name])


def test_keeping_every_token_equals_no_extraction(examples: list[Example]) -> None:
    plain = instruct()
    batch = collate(examples)
    kept = instruct(extraction=ExtractionConfig(blocks=2, keep_rate=1.0))
    kept.load_state_dict(plain.state_dict())
    assert torch.equal(plain(**batch)["loss"], kept(**batch)["loss"])


def test_extraction_drops_only_context_and_gradients_stay_finite() -> None:
    dropping, plain = instruct(extraction=ExtractionConfig(blocks=2, keep_rate=0.01)), instruct()
    plain.load_state_dict(dropping.state_dict())
    batch = collate(to_examples(instruct_samples(2, seconds=4.0)))
    context = (batch["speech"] | batch["vision"]).sum(1)
    lengths: list[int] = []
    dropping.decoder.register_forward_hook(lambda module, given, hidden: lengths.append(hidden.shape[1]))
    found = gradients(dropping, batch)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert lengths == [int((batch["lengths"] - context + MIN_CONTEXT_TOKENS).max())]
    assert dropping(**batch)["loss"].item() != plain(**batch)["loss"].item()
