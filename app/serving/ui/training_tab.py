"""The tab that shows trainings, also while they run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import gradio as gr
from PIL import Image

from app.reporting.text import draw_curves
from app.training.run_folder import RunDir


def training_tab(run: Path, tab: gr.Tab) -> gr.Timer | None:
    """Curves of any run beside this one, drawn again every few seconds while it trains and the tab is open."""

    def runs() -> list[str]:
        return sorted(folder.name for folder in run.parent.glob("*") if (folder / "metrics.jsonl").is_file())

    if not runs():
        gr.HTML('<p class="empty">No run folder here: the model came alone.</p>')
        return None
    chosen = gr.Dropdown(runs(), value=run.name if run.name in runs() else runs()[0], label="Run")
    told = gr.Markdown()
    curves = gr.Image(label="Curves", interactive=False, show_label=False, buttons=[], elem_id="curves")
    timer = gr.Timer(5, active=False)

    def draw(name: str) -> tuple[str, Image.Image | None, gr.Timer]:
        if name not in runs():
            raise gr.Error("There is no such run.", print_exception=False)
        shown = RunDir(run.parent / name)
        return (*draw_run(shown), gr.Timer(active=shown.result() is None))

    tab.select(lambda: gr.update(choices=runs()), outputs=chosen, show_progress="hidden", api_visibility="private")
    for event in (tab.select, chosen.change, timer.tick):
        event(draw, chosen, [told, curves, timer], show_progress="hidden", api_visibility="private")
    return timer


def draw_run(run: RunDir) -> tuple[str, Image.Image | None]:
    """How far a run is, and its curves."""
    records = run.records()
    steps, result = [r for r in records if "loss" in r], run.result()
    if not steps:
        return "just begun", None
    told = f"step {steps[-1]['step']:,}, loss {steps[-1]['loss']:.3f}"
    if result:
        told += f"; finished, {result['accuracy']:.1%} right on the {result['held_out']} rows"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curves.png"
        draw_curves(records, path)
        return told, Image.open(path).convert("RGB")
