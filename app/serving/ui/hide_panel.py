"""The panel that hides a painted region and asks again."""

from __future__ import annotations

import gradio as gr
from gradio.events import Dependency

from app.serving.engine import Engine
from app.serving.refusal import RefusedError
from app.serving.ui.hide_view import Question, hide_and_ask
from app.serving.ui.region_editor import region_editor
from data.errors import UserError


class HidePanel:
    """Build the panel.

    Attributes:
        question: state with the last question.
        column: the visible parts.
        editor: the picture of the last question, to be painted over.
        compared: both answers.
    """

    def __init__(self, engine: Engine):
        self.question = gr.State(None)
        with gr.Column(visible=False, elem_id="hiding") as self.column:
            gr.Markdown(
                "### Hide and ask again\nPaint over what the model should not see. It is filled from around it."
            )
            self.editor = region_editor()
            start = gr.Button("Hide and ask again", elem_id="hide")
            self.compared = gr.HTML(elem_id="compared")

        async def compare(question: Question | None, layers: list[str]) -> str:
            try:
                return await hide_and_ask(engine, question, layers)
            except (UserError, RefusedError) as error:
                raise gr.Error(str(error), print_exception=False) from None

        start.click(compare, [self.question, self.editor], self.compared, api_name="hide_and_ask", concurrency_limit=4)

    def follow(self, event: Dependency) -> None:
        """After an event that sets the question, show its picture in the editor, or hide the panel without one."""
        outputs = [self.column, self.editor, self.compared]
        event.success(show_question, self.question, outputs, show_progress="hidden", api_visibility="private")


def show_question(question: Question | None) -> tuple:
    """Visibility of the panel, value of its editor, and no comparison."""
    if question is None or question.picture is None:
        return gr.Column(visible=False), None, ""
    return gr.Column(visible=True), {"background": question.picture, "layers": [], "composite": question.picture}, ""
