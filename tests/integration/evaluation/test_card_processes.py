"""nano's card, measured by several processes."""

from pathlib import Path

from model_core.evaluation.nano import Plan, evaluate_nano
from tests.unit.evaluation.test_card import data, nothing, plan

__all__ = ["data"]


def test_two_processes_measure_the_same_as_one(data: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    only = ("wer-known", "vqa-written")
    two = evaluate_nano(plan(data, *only, workers=2), lambda *step: steps.append(step))
    assert steps[0] == ("parts", 0, 2)
    assert steps[-1] == ("parts", 2, 2)
    one = evaluate_nano(Plan(data=data, out=data.parent / "one", preset="tiny", only=only), nothing)
    assert two.result.details["figures"] == one.result.details["figures"]
