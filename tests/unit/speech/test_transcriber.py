"""Transcripts: the decoder against transformers, what may be written, segments of clips, checkpoints."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from model_core.audio.tensors import SAMPLE_RATE, Clip
from model_core.checkpoints.whisper import load_transcriber
from model_core.speech.random_transcriber import random_transcriber
from model_core.speech.segments import Segment
from model_core.speech.transcriber import DecodingOptions, Transcriber
from model_core.speech.whisper_decoder import DecoderState, WhisperDecoder
from model_core.speech.whisper_tokens import TIMESTAMPS, WhisperTokens, random_tokenizer
from tests.unit.speech.tiny_whisper import FEED_FORWARD, HEADS, LAYERS, WIDTH, clip, frames_of, oracle_config

pytestmark = pytest.mark.kernels
TOKENIZER = random_tokenizer()
TOKENS = WhisperTokens(TOKENIZER, TOKENIZER.get_vocab_size() + TIMESTAMPS)
MINUS_INFINITY = float("-inf")


def timestamp(seconds: float) -> int:
    return TOKENS.first_timestamp + round(seconds * 50)


def letters(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).ids)


@pytest.fixture(scope="module")
def oracle() -> WhisperForConditionalGeneration:
    torch.manual_seed(1)
    config = oracle_config(
        vocab_size=TOKENS.vocabulary,
        max_target_positions=64,
        init_std=0.5,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )
    return WhisperForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def decoder(oracle: WhisperForConditionalGeneration) -> WhisperDecoder:
    built = WhisperDecoder.Config(
        vocabulary=TOKENS.vocabulary,
        width=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        feed_forward=FEED_FORWARD,
        max_tokens=64,
    ).build()
    built.load_state_dict(oracle.model.decoder.state_dict())
    return built.eval()


def oracle_logits(oracle: WhisperForConditionalGeneration, frames_TD: Tensor, tokens: list[int]) -> Tensor:
    with torch.no_grad():
        hidden = oracle.model.decoder(torch.tensor([tokens]), encoder_hidden_states=frames_TD[None])
        return oracle.proj_out(hidden.last_hidden_state)[0]


def test_logits_equal_those_of_transformers_token_by_token(
    oracle: WhisperForConditionalGeneration, decoder: WhisperDecoder
) -> None:
    frames = torch.randn(30, WIDTH)
    tokens = [3, 80, 200, 7, 7, 150]
    expected = oracle_logits(oracle, frames, tokens)
    with torch.no_grad():
        state = decoder.new_state([frames])
        for position, token in enumerate(tokens):
            logits = decoder(torch.tensor([[token]]), state)[0]
            torch.testing.assert_close(logits, expected[position], atol=1e-4, rtol=1e-4)


def test_batched_logits_of_unequal_clips_equal_those_of_each_alone(
    oracle: WhisperForConditionalGeneration, decoder: WhisperDecoder
) -> None:
    clips = [torch.randn(length, WIDTH) for length in (5, 40, 17)]
    rows = [[3, 80, 200], [3, 9, 4], [3, 1, 1]]
    with torch.no_grad():
        state = decoder.new_state(clips)
        decoder(torch.tensor(rows)[:, :2], state)
        logits = decoder(torch.tensor(rows)[:, 2:], state)
    for row, frames in enumerate(clips):
        expected = oracle_logits(oracle, frames, rows[row])[-1]
        torch.testing.assert_close(logits[row], expected, atol=1e-4, rtol=1e-4)


def test_remaining_rows_are_unaffected_by_removed_ones(decoder: WhisperDecoder) -> None:
    clips = [torch.randn(length, WIDTH) for length in (5, 40, 17)]
    with torch.no_grad():
        state = decoder.new_state(clips)
        decoder(torch.tensor([[3], [4], [5]]), state)
        fewer = state.select([2, 0])
        torch.testing.assert_close(
            decoder(torch.tensor([[8], [6]]), fewer), decoder(torch.tensor([[6], [7], [8]]), state)[[2, 0]]
        )


@torch.no_grad()
def test_a_text_longer_than_the_initial_cache_equals_one_pass() -> None:
    torch.manual_seed(3)
    shape = WhisperDecoder.Config(vocabulary=50, width=WIDTH, layers=LAYERS, heads=HEADS, feed_forward=FEED_FORWARD)
    built, frames = shape.build().eval(), torch.randn(30, WIDTH)
    tokens_1L = torch.randint(50, (1, 150))
    stepped = built.new_state([frames])
    for position in range(tokens_1L.shape[1]):
        logits = built(tokens_1L[:, position : position + 1], stepped)
    torch.testing.assert_close(logits, built(tokens_1L, built.new_state([frames])), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_bfloat16_decoder_gives_nearly_the_same_logits(decoder: WhisperDecoder) -> None:
    clips, tokens = [torch.randn(length, WIDTH) for length in (5, 40)], torch.tensor([[3, 80, 200], [3, 9, 4]])
    exact = decoder(tokens, decoder.new_state(clips))
    rounded = copy.deepcopy(decoder)
    rounded.set_compute_dtype(torch.bfloat16)
    near = rounded(tokens, rounded.new_state(clips)).float()
    assert torch.nn.functional.cosine_similarity(near, exact, dim=-1).min() > 0.99


# Which tokens may follow.


def allowed(written: list[int], last: float = 30.0, logits: Tensor | None = None) -> list[int]:
    made = torch.zeros(TOKENS.vocabulary) if logits is None else logits
    return (TOKENS.allowed(made, written, timestamp(last)) > MINUS_INFINITY).nonzero()[:, 0].tolist()


def words_win() -> Tensor:
    """Logits where each word is likelier than all timestamps together."""
    logits = torch.zeros(TOKENS.vocabulary)
    logits[TOKENS.first_timestamp :] = -20
    return logits


def test_text_starts_with_a_timestamp_in_the_first_second() -> None:
    assert allowed([]) == list(range(timestamp(0), timestamp(1) + 1))


def test_text_of_a_short_clip_starts_inside_it() -> None:
    assert allowed([], last=0.1) == list(range(timestamp(0), timestamp(0.1) + 1))


def test_words_follow_a_start() -> None:
    following = allowed([timestamp(0)])
    assert letters("a")[0] in following
    assert not [token for token in following if token >= TOKENS.first_timestamp]


def test_a_closed_segment_is_followed_by_another_or_the_end() -> None:
    following = allowed([timestamp(0), *letters("a"), timestamp(2)], last=3.0, logits=words_win())
    assert following == [TOKENS.end, *range(timestamp(2), timestamp(3) + 1)]


def test_segments_are_not_empty_or_reversed() -> None:
    following = allowed([timestamp(0.5), *letters("a")], last=2.0, logits=words_win())
    assert [token for token in following if token >= TOKENS.first_timestamp] == list(
        range(timestamp(0.52), timestamp(2) + 1)
    )


def test_a_timestamp_is_chosen_if_timestamps_are_likelier_in_sum() -> None:
    following = allowed([timestamp(0), *letters("a")])
    assert min(following) > TOKENS.first_timestamp


@pytest.mark.parametrize("banned", ["(", "[", "*", "<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>"])
def test_non_speech_tokens_are_suppressed(banned: str) -> None:
    token = TOKENIZER.token_to_id(banned)
    assert token not in allowed([timestamp(0), *letters("a")], logits=words_win())


def test_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="notimestamps"):
        _ = WhisperTokens(random_tokenizer_without_special_tokens(), 2000).first_timestamp


def random_tokenizer_without_special_tokens():  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, models

    return Tokenizer(models.BPE({"a": 0}, []))


# Transcripts, by a scripted decoder.


class Scripted(WhisperDecoder):
    """Decodes the r-th script for row r, with the given `no_speech` and confidence."""

    def __init__(self, scripts: list[list[int]], *, no_speech: float = 0.0, confidence: float = 30.0) -> None:
        super().__init__(
            WhisperDecoder.Config(vocabulary=TOKENS.vocabulary, width=WIDTH, layers=1, heads=2, feed_forward=8)
        )
        self.scripts, self.no_speech, self.confidence = scripts, no_speech, confidence
        self.steps = 0

    def forward(self, tokens_BL: Tensor, state: DecoderState) -> Tensor:
        # The frames contain the level of the samples, which identifies the row.
        rows = (state.cross[0][0][:, 0, 0, 0]).round().long().tolist()
        position = state.tokens
        self.steps += 1
        logits = torch.zeros(len(rows), TOKENS.vocabulary)
        for at, row in enumerate(rows):
            script = self.scripts[row]
            logits[at, script[position] if position < len(script) else TOKENS.end] = self.confidence
            if position == 0 and self.no_speech:
                logits[at, TOKENS.no_speech] = self.confidence + torch.logit(torch.tensor(self.no_speech)).item()
        state.tokens += 1
        return logits

    def new_state(self, frames: list[Tensor]) -> DecoderState:
        rows = torch.stack([clip[0, 0] for clip in frames])[:, None, None, None]
        return DecoderState([(rows, rows)], [], None)


def transcribe(decoder: WhisperDecoder, clips: list[Clip], **options: object) -> list[Segment]:
    made = DecodingOptions(**options)  # type: ignore[arg-type]
    return list(Transcriber(decoder, TOKENIZER, frames_of, made).transcribe(clips))


def test_segments_lie_between_timestamps_in_the_time_of_the_recording() -> None:
    script = [timestamp(0.5), *letters("one"), timestamp(2), timestamp(2.5), *letters("two"), timestamp(4)]
    segments = transcribe(Scripted([[], script]), [clip(5, start=30, level=1)])
    assert [(s.start_seconds, s.end_seconds, s.text) for s in segments] == [(30.5, 32, "one"), (32.5, 34, "two")]
    assert all(s.mean_log_probability == pytest.approx(0, abs=1e-3) for s in segments)
    assert all(s.no_speech_probability == pytest.approx(0, abs=1e-3) for s in segments)


def test_open_segment_ends_with_its_clip() -> None:
    segments = transcribe(Scripted([[], [timestamp(1), *letters("open")]]), [clip(3, start=60, level=1)])
    assert [(s.start_seconds, s.end_seconds) for s in segments] == [(61, 63)]


def test_segment_never_ends_after_its_clip() -> None:
    segments = transcribe(Scripted([[], [timestamp(0), *letters("late"), timestamp(3.4)]]), [clip(3, level=1)])
    assert segments[0].end_seconds == 3


def test_the_remainder_after_an_open_segment_is_transcribed_separately() -> None:
    scripts = [
        [],
        [timestamp(0), *letters("one"), timestamp(2), timestamp(2)],
        [timestamp(0.5), *letters("two"), timestamp(1)],
        [timestamp(0), *letters("three"), timestamp(1)],
    ]
    samples = torch.cat([torch.full((2 * SAMPLE_RATE,), 1.0), torch.full((3 * SAMPLE_RATE,), 2.0)])
    clips = [Clip(1, 30.0, 35.0, samples), clip(2, start=60, level=3)]
    segments = transcribe(Scripted(scripts), clips)
    assert [(s.start_seconds, s.end_seconds, s.text) for s in segments] == [
        (30, 32, "one"),
        (32.5, 33, "two"),
        (60, 61, "three"),
    ]


def test_a_short_or_silent_remainder_is_skipped() -> None:
    left_open = [timestamp(0), *letters("one"), timestamp(2), timestamp(2)]
    samples = torch.cat([torch.full((2 * SAMPLE_RATE,), 1.0), torch.zeros(3 * SAMPLE_RATE)])
    for rest in (samples, samples[: int(2.4 * SAMPLE_RATE)]):
        segments = transcribe(Scripted([[], left_open]), [Clip(0, 0.0, len(rest) / SAMPLE_RATE, rest)])
        assert [s.text for s in segments] == ["one"]


@pytest.mark.parametrize("batched", [True, False])
def test_clips_of_a_batch_end_independently(batched: bool) -> None:
    scripts = [[], [timestamp(0), *letters("a"), timestamp(1)], [timestamp(0), *letters("longer"), timestamp(1)]]
    clips = [clip(2, start=0, level=2), clip(1, start=30, level=1), clip(2, start=60, level=2)]
    segments = transcribe(Scripted(scripts), clips, batched=batched)
    assert [(s.start_seconds, s.text) for s in segments] == [(0, "longer"), (30, "a"), (60, "longer")]


@pytest.mark.parametrize(("batched", "batches"), [(None, [1, 1, 1]), (True, [3])])
def test_the_cpu_decodes_clips_one_by_one_by_default(batched: bool | None, batches: list[int]) -> None:
    class Counting(Scripted):
        def new_state(self, frames: list[Tensor]) -> DecoderState:
            counted.append(len(frames))
            return super().new_state(frames)

    counted: list[int] = []
    scripts = [[], *([timestamp(0), *letters(word), timestamp(1)] for word in ("one", "two", "three"))]
    clips = [clip(2, start=30 * level, level=level) for level in (3, 1, 2)]
    assert [s.text for s in transcribe(Counting(scripts), clips, batched=batched)] == ["three", "one", "two"]
    assert counted == batches


def test_silent_clips_are_not_decoded() -> None:
    decoder = Scripted([[timestamp(0), *letters("you")]])
    assert transcribe(decoder, [clip(3, level=0.0), clip(3, level=1e-5)]) == []
    assert decoder.steps == 0


def test_improbable_text_without_speech_is_dropped() -> None:
    scripts = [[], [timestamp(0), *letters("you"), timestamp(1)]]
    assert transcribe(Scripted(scripts, no_speech=0.9, confidence=2.0), [clip(3, level=1)]) == []
    assert transcribe(Scripted(scripts, no_speech=0.9), [clip(3, level=1)])[0].text == "you"


def test_a_clip_with_only_punctuation_has_no_segment() -> None:
    assert transcribe(Scripted([[], [timestamp(0), *letters(" ."), timestamp(1)]]), [clip(3, level=1)]) == []


def test_text_length_is_limited_by_the_clip() -> None:
    decoder = Scripted([[], [timestamp(0), *letters("ha" * 500)]])
    segments = transcribe(decoder, [clip(2, level=1)], tokens_per_second=10, temperatures=(0.0,))
    assert len(segments[0].text) == 29  # (2 s + 1 s of silence) * 10, less the first timestamp


def test_repetitive_text_is_decoded_again_at_another_temperature() -> None:
    class Calming(Scripted):
        def new_state(self, frames: list[Tensor]) -> DecoderState:
            self.scripts[1] = self.scripts.pop()
            return super().new_state(frames)

    good = [timestamp(0), *letters("calm"), timestamp(1)]
    looping = [timestamp(0), *letters("ha" * 90)]
    decoder = Calming([[], [], good, looping])
    segments = transcribe(decoder, [clip(20, level=1)], temperatures=(0.0, 0.1))
    assert [s.text for s in segments] == ["calm"]


@pytest.mark.parametrize("language", ["", "en"])
def test_a_random_transcriber_is_reproducible(language: str) -> None:
    clips = [clip(0.5, level=0.3), clip(2.0, start=30.0, level=0.7)]
    first = list(random_transcriber(WIDTH, frames_of).transcribe(clips, language))
    assert first == list(random_transcriber(WIDTH, frames_of).transcribe(clips, language))
    assert first


def test_no_clips_give_no_segments() -> None:
    assert list(random_transcriber(WIDTH, frames_of).transcribe([])) == []


def test_clips_beyond_the_first_batch_are_decoded_lazily() -> None:
    decoder = Scripted([[], [timestamp(0), *letters("a"), timestamp(1)]])
    segments = Transcriber(decoder, TOKENIZER, frames_of, DecodingOptions(batch=1)).transcribe([clip(2, level=1)] * 5)
    next(segments)
    steps = decoder.steps
    segments.close()  # type: ignore[attr-defined]
    assert decoder.steps == steps


def test_folder_in_hugging_face_layout_is_loaded(
    tmp_path: Path, oracle: WhisperForConditionalGeneration, decoder: WhisperDecoder
) -> None:
    tensors = {name: tensor.half() for name, tensor in oracle.state_dict().items() if name != "proj_out.weight"}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(oracle.config.to_json_string())
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    loaded = load_transcriber(tmp_path, frames_of)
    assert loaded is not None
    expected = Transcriber(decoder, TOKENIZER, frames_of)
    clips = [clip(1, level=0.4)]
    heard, wanted = list(loaded.transcribe(clips)), list(expected.transcribe(clips))
    assert [s.text for s in heard] == [s.text for s in wanted]


def test_a_folder_with_only_an_encoder_has_no_transcriber(tmp_path: Path) -> None:
    save_file({"model.encoder.conv1.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert load_transcriber(tmp_path, frames_of) is None
