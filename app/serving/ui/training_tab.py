"""The tab with the training curves of runs and the trials of searches, finished or in progress."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import gradio as gr
from PIL import Image

from app.reporting.charts import draw_curves
from app.training.run_folder import PROGRESS, RunDir

REFRESH_SECONDS = 5


def training_tab(run: Path, tab: gr.Tab) -> gr.Timer | None:
    """Build the tab for this run and those beside it.

    Returns:
        The timer that refreshes the curves while a run trains and the tab is open, or ``None`` if there is no run.
    """

    def runs() -> list[str]:
        shown = [folder for folder in run.parent.glob("*") if is_search(folder) or (folder / "metrics.jsonl").is_file()]
        return sorted(folder.name for folder in shown)

    if not runs():
        gr.HTML('<p class="empty">There is no run folder: the model is served without one.</p>')
        return None
    chosen = gr.Dropdown(runs(), value=run.name if run.name in runs() else runs()[0], label="Run")
    status = gr.Markdown()
    curves = gr.Image(label="Curves", interactive=False, show_label=False, buttons=[], elem_id="curves")
    timer = gr.Timer(REFRESH_SECONDS, active=False)

    def draw(name: str) -> tuple[str, Image.Image | None, gr.Timer]:
        if name not in runs():
            raise gr.Error("This run does not exist.", print_exception=False)
        if is_search(run.parent / name):
            status, picture, is_over = draw_study(run.parent / name)
            return status, picture, gr.Timer(active=not is_over)
        shown = RunDir(run.parent / name)
        return (*draw_run(shown), gr.Timer(active=shown.result() is None))

    tab.select(lambda: gr.update(choices=runs()), outputs=chosen, show_progress="hidden", api_visibility="private")
    for event in (tab.select, chosen.change, timer.tick):
        event(draw, chosen, [status, curves, timer], show_progress="hidden", api_visibility="private")
    return timer


def is_search(folder: Path) -> bool:
    """Whether a folder is that of a search."""
    return (folder / PROGRESS).is_file()


def draw_study(folder: Path) -> tuple[str, Image.Image | None, bool]:
    """Status of a search as text, its chart, and whether all its trials are done."""
    try:
        told = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        status = f"Search: {told['done']} of {told['trials']} trials"
        if "best" in told:
            status += f". Best: trial {told['best']}, {told['metric']} {told['figure']} on the validation rows"
        with Image.open(folder / "progress.png") as picture:
            return f"{status}.", picture.convert("RGB"), told["done"] >= told["trials"]
    except (OSError, ValueError, KeyError):
        return "The search cannot be read.", None, True


def draw_run(run: RunDir) -> tuple[str, Image.Image | None]:
    """Status of a run as text, and its curves."""
    records = run.records()
    steps, result = [r for r in records if "loss" in r], run.result()
    if not steps:
        return "The run has just started.", None
    status = f"Step {steps[-1]['step']:,}, loss {steps[-1]['loss']:.3f}"
    if result:
        status += f". Finished: accuracy {result['accuracy']:.1%} on the {result['held_out']} rows"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curves.png"
        draw_curves(records, path)
        return f"{status}.", Image.open(path).convert("RGB")
