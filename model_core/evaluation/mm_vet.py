"""MM-Vet (Yu et al., arXiv 2308.02490): open-ended answers, scored by a language model as the judge.

Layout as published: `mm-vet.json` ({"v1_0": {"imagename", "question", "answer", "capability": [...]}}), `images/`;
recordings are named by sample, such as `v1_0`.

The paper's score needs a judge (GPT-4 there): any model behind a function that completes a prompt. Without one the
metric is `mm_vet_match`, which is not comparable: the share of the required elements whose words the answer contains.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from model_core.errors import InvalidInput
from model_core.evaluation.layouts import IMAGE_SUFFIXES, Questions, as_item, find_one, media_file, read_json
from model_core.evaluation.manifest import Progress, Result
from model_core.evaluation.predictions import Row, Sample, predict_all
from model_core.evaluation.report import Report, bar_chart, share_table
from model_core.evaluation.subject import Subject
from model_core.metrics.short_answers import contains_answer

MAX_ANSWER_TOKENS = 256
JUDGEMENTS = "judgements.jsonl"
AND, OR = "<AND>", "<OR>"
_ATTEMPTS, _TEMPERATURE_STEP = 5, 0.5

Judge = Callable[[str, float], str]
"""Completes a prompt with a few tokens at the given temperature."""

# The judge's prompt defines the metric: it is copied from the paper's table.
JUDGE_PROMPT = """\
Compare the ground truth and prediction from AI models, to give a correctness score for the prediction. <AND> in the \
ground truth means it is totally right only when all elements in the ground truth are present in the prediction, and \
<OR> means it is totally right when any one element in the ground truth is present in the prediction. The correctness \
score is 0.0 (totally wrong), 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, or 1.0 (totally right). Just complete the \
last space of the correctness score.

Question | Ground truth | Prediction | Correctness
--- | --- | --- | ---
What is x in the equation? | -1 <AND> -5 | x = 3 | 0.0
What is x in the equation? | -1 <AND> -5 | x = -1 | 0.5
What is x in the equation? | -1 <AND> -5 | x = -5 | 0.5
What is x in the equation? | -1 <AND> -5 | x = -5 or 5 | 0.5
What is x in the equation? | -1 <AND> -5 | x = -1 or x = -5 | 1.0
Can you explain this meme? | This meme is poking fun at the fact that the names of the countries Iceland and Greenland \
are misleading. Despite its name, Iceland is known for its beautiful green landscapes, while Greenland is mostly \
covered in ice and snow. The meme is saying that the person has trust issues because the names of these countries do \
not accurately represent their landscapes. | The meme talks about Iceland and Greenland. It's pointing out that \
despite their names, Iceland is not very icy and Greenland isn't very green. | 0.4
Can you explain this meme? | This meme is poking fun at the fact that the names of the countries Iceland and Greenland \
are misleading. Despite its name, Iceland is known for its beautiful green landscapes, while Greenland is mostly \
covered in ice and snow. The meme is saying that the person has trust issues because the names of these countries do \
not accurately represent their landscapes. | The meme is using humor to point out the misleading nature of Iceland's \
and Greenland's names. Iceland, despite its name, has lush green landscapes while Greenland is mostly covered in ice \
and snow. The text 'This is why I have trust issues' is a playful way to suggest that these contradictions can lead to \
distrust or confusion. The humor in this meme is derived from the unexpected contrast between the names of the \
countries and their actual physical characteristics. | 1.0
"""


def load_mm_vet(folder: Path, questions: Questions) -> list[Sample]:
    """All samples, in file order. Raises InvalidInput."""
    path = find_one(folder, "mm-vet.json", "*/mm-vet.json")
    whole = read_json(path)
    if not isinstance(whole, dict) or not whole:
        raise InvalidInput(path.name, "is not a non-empty object of samples")
    samples = []
    for name, value in whole.items():
        item = as_item(value, path.name, name)
        image = media_file(path.parent / "images", item.text("imagename"), f"{path.name}, {name}", IMAGE_SUFFIXES)
        question = questions.build(name, item.text("question"), images=(image,), max_tokens=MAX_ANSWER_TOKENS)
        about = {"question": item.text("question"), "answer": item.text("answer")}
        samples.append(Sample(id=name, question=question, about=about | {"capability": item.texts("capability")}))
    return samples


def mm_vet_report(
    samples: Sequence[Sample],
    subject: Subject,
    folder: Path | None,
    *,
    form: str,
    judge: Judge | None = None,
    judge_name: str = "",
    runs: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Mean score in percent, overall, by capability and by combination of capabilities.

    Args:
        samples: From `load_mm_vet`.
        subject: What is evaluated.
        folder: Folder of predictions and judgements; None stores none.
        form: Whether the questions are written, recorded or synthesized.
        judge: Scores the answers; None for `mm_vet_match`.
        judge_name: Distinguishes stored judgements of different judges.
        runs: How often each answer is judged; 5 in the paper.
        progress: Called with the number of samples done and in total.
    """
    scorer = _Scorer(folder, judge, judge_name, runs)
    rows = predict_all(samples, subject, folder, scorer.score, progress=progress)
    single, combined = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for row in rows:
        for capability in row["capability"]:
            single[capability].append(row["score"])
        combined[" + ".join(sorted(row["capability"]))].append(row["score"])
    details: dict[str, Any] = {"benchmark": "mm-vet", "questions": form}
    if judge:
        totals = [100 * mean(row["scores"][run] for row in rows) for run in range(runs)]
        unjudged = sum(row["unjudged"] for row in rows)
        details |= {"judge": judge_name, "runs": runs, "deviation": round(pstdev(totals), 2), "unjudged": unjudged}
    metric = "mm_vet_score" if judge else "mm_vet_match"
    value = round(100 * mean(row["score"] for row in rows), 2)
    result = Result(metric=metric, value=value, count=len(rows), subject=subject.tags, details=details)
    table = share_table(f"{metric} by capability", "capability", dict(sorted(single.items())))
    together = share_table(f"{metric} by combination", "capabilities", dict(sorted(combined.items())))
    return Report(result=result, tables=(table, together), plots={"capabilities.png": bar_chart(table)})


def match(prediction: str, answer: str) -> float:
    """Share of the <AND> elements for which the prediction contains at least one of the <OR> alternatives."""
    elements = [element.split(OR) for element in answer.split(AND)]
    return mean(float(contains_answer(prediction, alternatives)) for alternatives in elements)


def judge_prompt(question: str, answer: str, prediction: str) -> str:
    """The prompt for one answer; the judge completes its last line."""
    truth = answer.replace(AND, f" {AND} ").replace(OR, f" {OR} ")
    return f"{JUDGE_PROMPT}\n" + " | ".join((question, truth, prediction, ""))


def judged(judge: Judge, prompt: str) -> float | None:
    """The judge's score from 0 to 1, retried at higher temperatures if its output is not a score; None if all fail."""
    for attempt in range(_ATTEMPTS):
        hint = "\nPredict the correctness of the answer (digit): " if attempt else ""
        output = judge(prompt + hint, attempt * _TEMPERATURE_STEP).split()
        try:
            score = float(output[0])
        except (IndexError, ValueError):
            continue
        if 0 <= score <= 1:
            return score
    return None


class _Scorer:
    """Scores rows and stores judgements, which are expensive."""

    def __init__(self, folder: Path | None, judge: Judge | None, judge_name: str, runs: int) -> None:
        self._path = folder / JUDGEMENTS if folder else None
        self._judge, self._judge_name, self._runs = judge, judge_name, runs
        self._known: dict[str, float | None] = {}
        if self._path and self._path.is_file():
            for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):
                    entry = json.loads(line)
                    self._known[entry["key"]] = entry["score"]

    def score(self, row: Row) -> dict[str, Any]:
        if self._judge is None:
            return {"score": match(row["prediction"], row["answer"])}
        prompt = judge_prompt(row["question"], row["answer"], row["prediction"])
        found = [self._ask(self._judge, prompt, run) for run in range(self._runs)]
        scores = [0.0 if score is None else score for score in found]
        return {"score": mean(scores), "scores": scores, "unjudged": found.count(None)}

    def _ask(self, judge: Judge, prompt: str, run: int) -> float | None:
        key = hashlib.sha256(f"{self._judge_name} {run} {prompt}".encode()).hexdigest()[:32]
        if key not in self._known:
            self._known[key] = judged(judge, prompt)
            if self._path:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "judge": self._judge_name, "score": self._known[key]}) + "\n")
        return self._known[key]
