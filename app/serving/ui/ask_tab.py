"""The tab that asks about one picture, and shows where the model looked."""

from __future__ import annotations

import asyncio
import html
import logging
import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.data_classes import ImageData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from app.explanation.attribution import Explanation
from app.inference.predictor import Predictor
from app.reporting.example_grid import spread
from app.reporting.html_report import as_address, as_seen
from app.run_paths import MODEL_FOLDER, find_data
from app.serving.engine import Engine, RefusedError
from app.serving.page_input import Chosen
from app.serving.ui.uploads import make_upload_folder
from app.settings import load_settings
from data import Example, Rows, load_rows, verify_images
from data.errors import UserError
from data.messages import excerpt_path
from models import ImageTextConfig
from models.onnx_classifier import OnnxModel

log = logging.getLogger(__name__)
HERE = Path(__file__).parent
NUM_ANSWERS = 5
NUM_EXAMPLES = 6
MAX_HISTORY = 30
ASKING = 16
"""People whose questions are worked on at a time; their answers are made in batches."""
PICTURE_SIDE = 840
"""Longest side of the picture under the heat-map, in pixels."""
THUMBNAIL_SIDE = 88


def path_of(payload: ImageData | None) -> str | None:
    """In the place of `gr.Image.preprocess`, which opens a picture with every decoder it has, before ours is asked."""
    return None if payload is None else payload.path


def ask_tab(engine: Engine, run: Path) -> tuple[gr.Image, gr.Textbox]:
    """One picture, one text, the answer and where it came from."""
    history = gr.State([])
    with gr.Row(elem_id="asking"):
        with gr.Column(scale=4):
            image = gr.Image(
                type="filepath",
                sources=["upload", "clipboard", "webcam"],
                label="Picture, or none",
                placeholder="Drop, paste or photograph a picture",
                height=320,
                elem_id="picture",
            )
            image.preprocess = path_of  # type: ignore[method-assign]
            text = gr.Textbox(label="Question or report, or nothing", lines=2, max_lines=12, elem_id="text")
            with gr.Row():
                clear = gr.Button("Clear")
                ask = gr.Button("Answer", variant="primary", elem_id="ask")
            if examples := held_out_examples(run):
                gallery = gr.Gallery(
                    [(path, words) for path, words in examples],
                    label="Held-out rows to try",
                    columns=3,
                    height="auto",
                    allow_preview=False,
                    buttons=[],
                    elem_id="examples",
                )

                def take(chosen: Chosen) -> tuple[str, str]:
                    if not 0 <= chosen.index < len(examples):
                        raise gr.Error("There is no such example.", print_exception=False)
                    path, words = examples[chosen.index]
                    return path, words

                gallery.select(take, outputs=[image, text], api_visibility="private")
        with gr.Column(scale=5):
            answer = gr.HTML('<p class="empty">The answer will stand here.</p>', elem_id="answer")
    with gr.Accordion("Asked in this session", open=False):
        asked = gr.HTML('<p class="empty">Nothing yet.</p>')

    async def reply(path: str | None, words: str, before: list[dict]) -> tuple[str, list[dict], str]:
        try:
            rendered, entry = await answer_one(engine, path, words)
        except (UserError, RefusedError) as error:
            raise gr.Error(str(error), print_exception=False) from None
        before = [entry, *before][:MAX_HISTORY]
        return rendered, before, history_list(before)

    gr.on(
        [ask.click, text.submit],
        reply,
        [image, text, history],
        [answer, history, asked],
        api_name="ask",
        concurrency_limit=ASKING,
    )
    clear.click(
        lambda: (None, "", '<p class="empty">The answer will stand here.</p>'),
        outputs=[image, text, answer],
        api_visibility="private",
    )
    return image, text


async def answer_one(engine: Engine, path: str | None, text: str | None) -> tuple[str, dict]:
    """The answer as HTML, and its line in the history.

    Raises:
        UserError, RefusedError: nothing to answer, or nobody to do it.
    """
    predictor = engine.predictor
    (example,), probabilities = await engine.ask([(path, text)])
    if isinstance(example, UserError):
        raise UserError(str(example).replace(f" {excerpt_path(str(path))}", ""))
    found = predictor.describe(probabilities[0][None], NUM_ANSWERS)[0]
    engine.pairs.inc()
    engine.unsure.inc(not found.is_sure)
    notes = [
        note
        for missing, note in (
            (example.image is None, "Answered without a picture."),
            (example.text is None, "Answered without a text."),
        )
        if missing
    ]
    rendered = (
        templates()
        .get_template("answer.html.jinja")
        .render(
            labels=found.labels,
            is_sure=found.is_sure,
            confidence=found.confidence,
            threshold=predictor.model.config.threshold,
            notes=notes,
            answers=[(answer["label"], answer["probability"]) for answer in found.answers],
            **await asyncio.to_thread(what_it_saw, predictor, example),
            **await engine.explain(heat_of, predictor, example),
        )
    )
    thumbnail = None
    if isinstance(example.image, Image.Image):
        picture = example.image.copy()
        picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        thumbnail = as_address(picture)
    told = ", ".join(found.labels) or "none of the labels"
    return rendered, {"picture": thumbnail, "text": example.text or "", "answer": told, "sure": found.is_sure}


@lru_cache
def templates() -> Environment:
    return Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined)


def what_it_saw(predictor: Predictor, example: Example) -> dict[str, str | None]:
    """The picture as the model gets it, and how much of the text it read."""
    seen, size = None, ""
    if isinstance(example.image, Image.Image):
        seen, side = as_seen(predictor.processor, example.image), predictor.model.config.image_size
        size = f"{example.image.width} × {example.image.height} px, squeezed to {side} × {side}"
    tokenizer = predictor.processor.tokenizer
    number, limit = len(tokenizer(example.text or "", verbose=False)["input_ids"]), tokenizer.model_max_length
    read = "No text." if example.text is None else f"All of the text, {number} tokens."
    if number > limit:
        encoding = tokenizer(example.text, truncation=True)
        end = max((span[1] for span in map(encoding.token_to_chars, range(limit)) if span), default=0)
        read = f"Only the first {limit} of {number} tokens, up to “…{(example.text or '')[max(0, end - 30) : end]}”."
    return {"seen": None if seen is None else as_address(seen), "size": size, "read": read}


def heat_of(predictor: Predictor, example: Example) -> dict:
    """The picture and the numbers that the viewer draws over it; no heat where image or text is missing."""
    explains = not isinstance(predictor.model, OnnxModel)
    if not explains or not isinstance(example.image, Image.Image) or example.text is None:
        return {"heat": None}
    try:
        explanation: Explanation = predictor.explain(example.image, example.text)
    except Exception:  # the answer stands without it
        log.exception("no heat-map")
        return {"heat": None}
    picture = example.image.copy()
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    attention = {level: np.round(maps, 4).tolist() for level, maps in explanation.attention.items()}
    return {
        "heat": {
            "answer": np.round(explanation.answer_weights, 4).tolist(),
            "effects": np.round(explanation.effects, 4).tolist(),
            "attention": attention,
        },
        "picture": as_address(picture),
        "width": picture.width,
        "height": picture.height,
        "words": explanation.words,
        "levels": list(attention),
        "heads": len(next(iter(explanation.attention.values()), [])),
    }


def history_list(entries: list[dict]) -> str:
    """What was asked, newest first."""
    lines = []
    for entry in entries:
        picture = f'<img src="{entry["picture"]}" alt="">' if entry["picture"] else ""
        unsure = "" if entry["sure"] else ' <span class="note">(not sure)</span>'
        text = html.escape(entry["text"][:200] or "no text")
        lines.append(f"<li>{picture}<div>{text}<br><b>{html.escape(entry['answer'])}</b>{unsure}</div></li>")
    return f'<ul class="history">{"".join(lines)}</ul>'


def held_out_examples(run: Path) -> list[list[str]]:
    """Some held-out rows of a run, their pictures written where the page may read them; none where they are gone."""
    config = run / "config.yaml"
    if not config.is_file():
        return []
    data = load_settings(config).data
    source = "test" if data.test else "validation"
    if getattr(data, source) is None:
        return []
    try:
        data = find_data(run, data, [source, "image_root"])
        rows = load_rows(getattr(data, source), "test", data)
        rows = replace(rows, value_range=ImageTextConfig.from_pretrained(run / MODEL_FOLDER).value_range)
        with_text = np.flatnonzero([bool(text) for text in rows.texts])
        chosen = with_text[np.linspace(0, len(with_text) - 1, min(NUM_EXAMPLES, len(with_text))).round().astype(int)]
        rows, _ = verify_images(rows.select(chosen), data)
        folder = Path(tempfile.mkdtemp(prefix="examples-", dir=make_upload_folder()))
        return [write_example(rows, i, folder) for i in spread(rows, NUM_EXAMPLES)]
    except (UserError, OSError) as error:
        print(f"no examples on the page: {error}")
        return []


def write_example(rows: Rows, index: int, folder: Path) -> list[str]:
    picture = rows.picture(index)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    path = folder / f"{index}.png"
    picture.save(path)
    return [str(path), rows.texts[index] or ""]
