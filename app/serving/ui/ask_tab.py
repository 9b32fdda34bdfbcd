"""The tab for one picture and one text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app.serving.engine import Engine
from app.serving.refusal import RefusedError
from app.serving.ui.answer_view import HistoryEntry, answer_question, history_list, inputs_of_model
from app.serving.ui.context_inputs import ContextInputs, path_of
from app.serving.ui.evidence_view import explain_answer, waiting_note
from app.serving.ui.example_rows import held_out_examples
from app.serving.ui.hide_panel import HidePanel
from app.serving.ui.hide_view import as_question
from app.serving.ui.page_input import GallerySelection
from data.errors import UserError

NO_ANSWER = '<p class="empty">The answer appears here.</p>'
MAX_HISTORY = 30
"""Questions in the history of a session."""
MAX_CONCURRENT = 16
"""Maximum number of questions in progress; they are answered in batches."""


def picture_input(**options) -> gr.Image:
    """An input for a picture."""
    picture = gr.Image(type="filepath", sources=["upload", "clipboard", "webcam"], **options)
    picture.preprocess = path_of  # type: ignore[assignment, method-assign]
    return picture


def main_input(frames: int) -> Component:
    """The input for the picture, or for the file of a video."""
    if frames == 1:
        placeholder = "Drop or paste a picture, or use the camera"
        return picture_input(label="Picture (optional)", placeholder=placeholder, height=320, elem_id="picture")
    video = gr.File(label="Video, animated picture or sheet of frames (optional)", elem_id="picture")
    video.preprocess = path_of  # type: ignore[assignment, method-assign]
    return video


def ask_tab(engine: Engine, run: Path) -> tuple[list[Component], ContextInputs]:
    """Build the tab; returns its inputs: the picture, the text, and those of further contexts."""
    history = gr.State([])
    has_text = engine.predictor.model.config.has_text
    with gr.Row(elem_id="asking"):
        with gr.Column(scale=4):
            image = main_input(engine.predictor.model.config.frames)
            text = gr.Textbox(
                label="Question or report (optional)", lines=2, max_lines=12, elem_id="text", visible=has_text
            )
            contexts = ContextInputs(engine.predictor, picture_input)
            filled = [image, text, *contexts.components]
            with gr.Row():
                clear = gr.Button("Clear")
                ask = gr.Button("Answer", variant="primary", elem_id="ask")
            if examples := held_out_examples(run, contexts):
                example_gallery(examples, filled)
        with gr.Column(scale=5):
            answer = gr.HTML(NO_ANSWER, elem_id="answer")
            evidence = gr.HTML(elem_id="evidence")
            panel = HidePanel(engine)
            inputs = gr.HTML(elem_id="inputs")
    with gr.Accordion("History of this session", open=False):
        asked = gr.HTML('<p class="empty">No questions yet.</p>')

    async def reply(path: str | None, words: str, before: list[HistoryEntry], *further: Any) -> AsyncIterator[tuple]:
        """Yields the answer, and then the same with its explanation."""
        try:
            found = await answer_question(engine, path, words, contexts.cells(further))
        except (UserError, RefusedError) as error:
            raise gr.Error(str(error), print_exception=False) from None
        before = [found.entry, *before][:MAX_HISTORY]
        more = before, history_list(before), await inputs_of_model(engine.predictor, found.example)
        question = await asyncio.to_thread(as_question, found.example, path)
        yield found.html, *more, question, waiting_note(engine.predictor)
        yield found.html, *more, question, await explain_answer(engine, found.example)

    replied = gr.on(
        [ask.click, text.submit],
        reply,
        [image, text, history, *contexts.components],
        [answer, history, asked, inputs, panel.question, evidence],
        api_name="ask",
        concurrency_limit=MAX_CONCURRENT,
    )
    panel.follow(replied)
    cleared = clear.click(
        lambda: (NO_ANSWER, "", "", None, None, "", *[None] * len(contexts.components)),
        outputs=[answer, inputs, evidence, panel.question, *filled],
        api_visibility="private",
    )
    panel.follow(cleared)
    return filled, contexts


def example_gallery(examples: list[tuple], inputs: list[Component]) -> None:
    """Pictures with their questions, which fill the inputs when they are selected."""
    gallery = gr.Gallery(
        [(path, text) for path, text, *_ in examples],
        label="Examples from the held-out rows",
        columns=3,
        height="auto",
        allow_preview=False,
        buttons=[],
        elem_id="examples",
    )

    def take(selection: GallerySelection) -> tuple:
        if not 0 <= selection.index < len(examples):
            raise gr.Error("This example does not exist.", print_exception=False)
        return examples[selection.index]

    gallery.select(take, outputs=inputs, api_visibility="private")
