"""The tab with the training curves of runs, finished or in progress."""

from __future__ import annotations

import tempfile
from pathlib import Path

import gradio as gr
from PIL import Image

from app.reporting.charts import draw_curves
from app.training.run_folder import RunDir

REFRESH_SECONDS = 5


def training_tab(run: Path, tab: gr.Tab) -> gr.Timer | None:
    """Build the tab for this run and those beside it.

    Returns:
        The timer that refreshes the curves while a run trains and the tab is open, or ``None`` if there is no run.
    """

    def runs() -> list[str]:
        return sorted(folder.name for folder in run.parent.glob("*") if (folder / "metrics.jsonl").is_file())

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
        shown = RunDir(run.parent / name)
        return (*draw_run(shown), gr.Timer(active=shown.result() is None))

    tab.select(lambda: gr.update(choices=runs()), outputs=chosen, show_progress="hidden", api_visibility="private")
    for event in (tab.select, chosen.change, timer.tick):
        event(draw, chosen, [status, curves, timer], show_progress="hidden", api_visibility="private")
    return timer


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
