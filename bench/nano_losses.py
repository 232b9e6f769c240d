"""Plots the losses of nano's training stages from the logs beside the trained parts.

python -m bench.nano_losses
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

from model_core.presets import NANO_PARTS

STAGES = (
    "align-pictures", "align-speech", "vision", "speech", "long-speech", "speech-generator",
)  # fmt: skip
COLUMNS = 4


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.nano_losses", description=__doc__.splitlines()[0])
    parser.add_argument("--logs", type=Path, default=NANO_PARTS / "losses", help="folder of <stage>.jsonl")
    parser.add_argument("--out", type=Path, default=Path("docs/images/nano-losses.png"), help="file for the plot")
    options = parser.parse_args()
    rows = -(-len(STAGES) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 2.8 * rows), layout="constrained")
    for place, stage in enumerate(STAGES, start=1):
        axis = figure.add_subplot(rows, COLUMNS, place)
        log = [json.loads(line) for line in (options.logs / f"{stage}.jsonl").read_text().splitlines()]
        axis.plot([row["step"] for row in log], [row["loss"] for row in log])
        axis.set(title=stage, xlabel="step", ylim=(0, None))
    figure.supylabel("loss (mean of 20 steps)")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=120)
    print(options.out)


if __name__ == "__main__":
    main()
