"""Splicing: text, speech tokens and vision tokens of a rendered conversation become one prompt (Lyra, section 3.1).

Shapes: L positions of the prompt, E language-model width.
"""

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_core.errors import InvalidInput
from model_core.language.messages import Part, SpeechPart, VisionPart


@dataclass(frozen=True, slots=True)
class SplicedPrompt:
    """A prompt as the decoder takes it.

    Attributes:
        embeds: [L, E] floats.
        positions: [3, L] int64, in time, height and width. Text and speech advance all three; tokens of a picture have
            the position of their frame, row and column, and what follows starts one after the largest (Qwen2-VL,
            section 2.1).
        context: [L] booleans, True for context tokens (speech and vision).
        instruction: [L] booleans, True for text after the first context token.
        speech_tokens: Number of speech tokens among the positions.
        vision_tokens: Number of vision tokens.
        clips: Number of clips in all recordings together.
        text_ids: Token ids of the text, int64 on the CPU.
    """

    embeds: Tensor
    positions: Tensor
    context: Tensor
    instruction: Tensor
    speech_tokens: int
    vision_tokens: int
    clips: int
    text_ids: Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """Token ids and positions of a prompt, before anything is embedded.

    Attributes:
        ids: [L] int64 token ids; 0 in place of speech and vision tokens.
        positions: As in SplicedPrompt.
        speech: [L] booleans, True for speech tokens.
        vision: [L] booleans, True for vision tokens.
        spans: Number of positions of each run.
    """

    ids: Tensor
    positions: Tensor
    speech: Tensor
    vision: Tensor
    spans: tuple[int, ...]

    @property
    def context(self) -> Tensor:
        """[L] booleans, True for context tokens."""
        return self.speech | self.vision

    @property
    def instruction(self) -> Tensor:
        """[L] booleans, True for text after the first context token."""
        return (self.context.cumsum(0) > 0) & ~self.context


def lay_out(runs: list[Part], tokenizer: Tokenizer) -> Layout:
    """Tokenizes the text and positions every token; of speech and vision parts only lengths and grids are read.

    Args:
        runs: From `chat_template.render`.
        tokenizer: The language model's.
    """
    ids: list[Tensor] = []
    positions: list[Tensor] = []
    start = 0
    for run in runs:
        if isinstance(run, str):
            ids.append(torch.tensor(tokenizer.encode(run, add_special_tokens=False).ids, dtype=torch.long))
        else:
            ids.append(torch.zeros(len(run.tokens), dtype=torch.long))
        grid = run.grid if isinstance(run, VisionPart) else None
        positions.append(start + (_grid_positions(grid) if grid else torch.arange(len(ids[-1])).expand(3, -1)))
        start = int(positions[-1].max()) + 1 if positions[-1].numel() else start
    spans = tuple(len(piece) for piece in ids)
    kinds = list(zip(runs, spans, strict=True))
    return Layout(
        ids=torch.cat(ids),
        positions=torch.cat(positions, dim=1),
        speech=torch.cat([torch.full((span,), isinstance(run, SpeechPart)) for run, span in kinds]),
        vision=torch.cat([torch.full((span,), isinstance(run, VisionPart)) for run, span in kinds]),
        spans=spans,
    )


def splice(runs: list[Part], tokenizer: Tokenizer, embed: nn.Embedding) -> SplicedPrompt:
    """Embeds the text and puts the speech and vision tokens in their places.

    Args:
        runs: From `chat_template.render`.
        tokenizer: The language model's.
        embed: Its embedding table; the prompt is made on this table's device.

    Raises:
        InvalidInput: the width of speech or vision tokens is not the model's.
    """
    device = embed.weight.device
    parts = [run for run in runs if not isinstance(run, str)]
    for part in parts:
        if part.tokens.shape[-1] != embed.embedding_dim:
            raise InvalidInput(
                "tokens",
                f"speech or vision tokens have width {part.tokens.shape[-1]}; the model has {embed.embedding_dim}",
            )
    layout = lay_out(runs, tokenizer)
    context_L = layout.context.to(device)
    embeds_LE = embed(layout.ids.to(device))
    if parts:
        embeds_LE = embeds_LE.masked_scatter(context_L[:, None], torch.cat([p.tokens.to(embeds_LE) for p in parts]))
    return SplicedPrompt(
        embeds=embeds_LE,
        positions=layout.positions.to(device),
        context=context_L,
        instruction=layout.instruction.to(device),
        speech_tokens=int(layout.speech.sum()),
        vision_tokens=int(layout.vision.sum()),
        clips=sum(run.clips for run in runs if isinstance(run, SpeechPart)),
        text_ids=layout.ids[~layout.context],
    )


def _grid_positions(grid: tuple[int, int, int]) -> Tensor:
    """[3, time * height * width]: frame, row and column of each token of a grid."""
    return torch.cartesian_prod(*(torch.arange(size) for size in grid)).view(-1, 3).T
