"""Accuracy, work and time of a gated model for several thresholds of its gates.

python train.py configs/quickstart.yaml --model.gated true --model.levels '[4,5]' --train.gate_cost 0.05 \\
    --run_dir runs/gated
python -m benchmarks.gates runs/gated                     # a Markdown table, and runs/gated/gates.png
"""

import argparse
import random
import statistics
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import send_to_device
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from app.inference.load import load_model
from app.precision import choose_precision
from app.settings_parser import load_settings
from benchmarks.timing import DEVICE, clock
from data import Batch, Collate, ImageBatchSampler, InputCollate, make_loader, prepare_data
from models import ImageTextClassifier
from models.gate import GatedFusion

THRESHOLDS = (0.0, 0.1, 0.5, 0.9, 0.97, 0.98, 0.99, 1.0)
"""A fusion runs if its gate is above the threshold: at 0 all fusions run, at 1 none."""
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="run folder of a model with gates")
    run_dir = parser.parse_args().run_dir
    model, processor = load_model(run_dir)
    if not model.config.gated or model.config.label_type != "single":
        parser.error(f"the model in {run_dir} must have gates (--model.gated true) and one label per row")
    model.to(DEVICE)
    settings = load_settings(run_dir / "config.yaml")
    rows = prepare_data(settings.data, settings.train.seed).splits["test"]
    reading = {"max_pixels": settings.data.max_pixels, "value_range": model.config.value_range}
    collate = Collate(InputCollate(processor, **reading), model.config.label2id)
    sampler = ImageBatchSampler(rows.image_keys, settings.train.batch_size, shuffle=False)
    batches = list(make_loader(rows, sampler, collate, 0))
    print(
        f"{run_dir}: {len(rows):,} test rows, the model's own threshold is {model.config.gate_threshold}; medians of "
        f"{ROUNDS} rounds in random order, {DEVICE}, {torch.get_num_threads()} threads\n"
    )
    seconds: dict[float, list[float]] = {threshold: [] for threshold in THRESHOLDS}
    results = {}
    predict(model, batches[:1])
    random.seed(0)
    for _ in range(ROUNDS):
        for threshold in random.sample(THRESHOLDS, len(THRESHOLDS)):
            with gates_at(model, threshold):
                started = clock()
                results[threshold] = predict(model, batches)
                seconds[threshold].append(clock() - started)
    names = "".join(f" fusion {name} runs |" for name in model.fusions)
    print(f"| threshold |{names} work behind gates | accuracy | seconds | relative to all open |")
    print("| --- |" + " --- |" * (len(model.fusions) + 4))
    for threshold in THRESHOLDS:
        accuracy, work, shares = results[threshold]
        ratio = statistics.median(
            mine / all_open for mine, all_open in zip(seconds[threshold], seconds[0.0], strict=True)
        )
        runs = "".join(f" {share:.1%} |" for share in shares)
        middle = statistics.median(seconds[threshold])
        print(f"| {threshold} |{runs} {work:.1%} | {accuracy:.1%} | {middle:.1f} | {ratio:.2f} |")
    draw([results[threshold][1::-1] for threshold in THRESHOLDS], run_dir / "gates.png")
    print(f"\nwrote {run_dir / 'gates.png'}")


@contextmanager
def gates_at(model: ImageTextClassifier, threshold: float):
    """Set the threshold of all gates; restore their own afterwards."""
    gates = [fusion for fusion in model.fusions.values() if isinstance(fusion, GatedFusion)]
    own = [gate.threshold for gate in gates]
    for gate in gates:
        gate.threshold = threshold
    yield
    for gate, value in zip(gates, own, strict=True):
        gate.threshold = value


@torch.inference_mode()
def predict(model: ImageTextClassifier, batches: list[Batch]) -> tuple[float, float, list[float]]:
    """Evaluate the model on all batches.

    Returns:
        Accuracy, the share of the work behind gates that was done, and for each level the share of rows for which its
        fusion ran.
    """
    right, gates, work = [], [], []
    precision = choose_precision("auto")
    for inputs, targets in batches:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16"):
            output = model(**send_to_device(inputs, DEVICE))
        right.append(output.logits.argmax(dim=1).cpu() == targets.labels)
        gates.append(output.gates.cpu())
        work.append(output.work.cpu())
    return torch.cat(right).float().mean().item(), torch.cat(work).mean().item(), torch.cat(gates).mean(dim=0).tolist()


def draw(points: list[tuple[float, float]], path: Path) -> None:
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    work, accuracy = zip(*sorted(points), strict=True)
    axes.plot(work, accuracy, "o-")
    axes.set(xlabel="share of the work behind gates", ylabel="accuracy", ylim=(0, 1.02))
    axes.set_title("accuracy against work")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
