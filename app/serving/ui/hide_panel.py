"""The panel that hides a painted region and asks again."""

from __future__ import annotations

import gradio as gr
from PIL import Image

from app.explanation.drawing import enlarged
from app.serving.engine import Engine
from app.serving.refusal import RefusedError
from app.serving.ui.hide_view import Question, hide_and_ask
from app.serving.ui.region_editor import SIDE, region_editor
from data import Example
from data.errors import UserError


class HidePanel:
    """Build the panel.

    Attributes:
        question: state with the last question.
        outputs: what `updates` gives values to.
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
        self.outputs = [self.question, self.column, self.editor, self.compared]

    def updates(self, example: Example, path: str | None) -> tuple:
        """Values of the outputs after an answer: the panel has its picture, or is hidden without one."""
        if not isinstance(example.image, Image.Image):
            return self.empty()
        picture = enlarged(example.image, SIDE)
        value = {"background": picture, "layers": [], "composite": picture}
        return Question(path, example.text), gr.Column(visible=True), value, ""

    def empty(self) -> tuple:
        """Values of the outputs without a picture."""
        return None, gr.Column(visible=False), None, ""
