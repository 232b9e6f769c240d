"""Written prompts of many kinds, and reading prompts from a file."""

from pathlib import Path

from model_core.errors import InvalidInput
from model_core.evaluation.manifest import read_manifest

PROMPTS = (
    "What is the capital of France?",
    "Name three fruits that are red.",
    "Explain in one sentence why the sky is blue.",
    "Write a short poem about the sea.",
    "What is 12 plus 30?",
    "Give me a recipe for pancakes in four steps.",
    "Translate 'good morning' into Spanish.",
    "Who wrote Romeo and Juliet?",
    "What is the opposite of cold?",
    "List the days of the week.",
    "Why do leaves change colour in autumn?",
    "Write an email that asks for a day off.",
    "What is photosynthesis?",
    "Summarise in one sentence: The meeting was moved to Monday because two people are ill.",
    "Which is larger, the sun or the moon?",
    "Suggest a name for a black cat.",
    "How does a bicycle stay upright?",
    "What should I pack for a week in the mountains?",
    "Correct the grammar: 'She go to school every days.'",
    "Give two reasons to learn a language.",
    "What is the boiling point of water in degrees Celsius?",
    "Write a Python function that adds two numbers.",
    "Tell me a fact about elephants.",
    "What does a dentist do?",
    "Describe a quiet morning in a village.",
    "How many legs does a spider have?",
    "What is the difference between weather and climate?",
    "Finish the sentence: The early bird",
    "Write a headline about a lost dog that came home.",
    "What is a prime number?",
    "Say something kind to a friend who failed an exam.",
    "Which planet is closest to the sun?",
)


def load_prompts(path: Path | None) -> list[tuple[str, str]]:
    """Names and texts of prompts, from JSON Lines with `question` or a text file with one per line; None for PROMPTS.

    Raises:
        InvalidInput: with the line.
    """
    if path is None:
        return [(f"prompt {number + 1}", text) for number, text in enumerate(PROMPTS)]
    if path.suffix in (".jsonl", ".json"):
        lines = read_manifest(path, texts=("question",), files=())
        return [(f"line {line.number}", line.text("question")) for line in lines]
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput("questions", f"{path} is not UTF-8 text") from error
    named = [(f"line {number}", text.strip()) for number, text in enumerate(texts, start=1) if text.strip()]
    if not named:
        raise InvalidInput("questions", f"{path} has no lines")
    return named
