"""The page for people: ask about a picture, see where the model looked, many rows at once, how good it is."""

from __future__ import annotations

import asyncio
import hmac
import html
import json
import tempfile
from functools import lru_cache
from pathlib import Path

import gradio as gr
import numpy as np
import pandas as pd
from fastapi import FastAPI
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from app.explain import Explanation
from app.onnx_model import OnnxModel
from app.page import as_address, as_seen, describe_model
from app.predictor import Predictor
from app.report import draw_curves, spread
from app.run_dir import RunDir
from app.serving.engine import Engine, RefusedError
from app.settings import load_settings
from app.tables import answer_table, unpacked
from data import Example, Rows, decode_image, load_rows, scan_images

HERE = Path(__file__).parent
NUM_ANSWERS = 5
NUM_EXAMPLES = 6
MAX_HISTORY = 30
ASKING = 16
"""People whose questions are worked on at a time; their answers are made in batches."""
QUEUE = 64
"""People who may wait besides."""
PICTURE_SIDE = 840
"""Longest side of the picture under the heat-map, in pixels."""
THUMBNAIL_SIDE = 88
PROGRESS = gr.Progress()
"""By this default value gradio knows that a function tells how far it is."""


def mount_page(app: FastAPI, engine: Engine, run: Path, api_key: str | None) -> FastAPI:
    """The page at the root of the API's application; with a key it is the password, whatever the user's name."""
    page = build_page(engine, run)
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth=None if api_key is None else lambda _, password: hmac.compare_digest(password, api_key),
        auth_message="The password is the server's key.",
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gr.themes.Soft(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        head=f"<script>{(HERE / 'viewer.js').read_text(encoding='utf-8')}</script>",
    )


def build_page(engine: Engine, run: Path) -> gr.Blocks:
    """The tabs."""
    predictor = engine.predictor
    with gr.Blocks(title=f"{run.name}: image + text", analytics_enabled=False, delete_cache=(600, 600)) as page:
        told = ", ".join(f"{part} {what}" for part, what in describe_model(predictor.model).items())
        gr.HTML(f'<header class="lead"><h1>{html.escape(run.name)}</h1><p>{html.escape(told)}</p></header>')
        with gr.Tab("Ask"):
            image, text = ask_tab(engine, run)
        with gr.Tab("Batch"):
            many_tab(predictor)
        with gr.Tab("Evaluation"):
            report = run / "evaluation" / "test" / "report.html"
            gr.HTML(report_frame(report))
        with gr.Tab("Training") as training:
            training_tab(run, training)
        with gr.Tab("Code") as code:
            code_tab(image, text, code, run)
    return page.queue(max_size=QUEUE)


def ask_tab(engine: Engine, run: Path) -> tuple[gr.Image, gr.Textbox]:
    """One picture, one text, the answer and where it came from."""
    history = gr.State([])
    with gr.Row(elem_id="asking"):
        with gr.Column(scale=4):
            image = gr.Image(
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard", "webcam"],
                label="Picture, or none",
                placeholder="Drop, paste or photograph a picture",
                height=320,
                elem_id="picture",
            )
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

                def take(chosen: gr.SelectData) -> tuple[str, str]:
                    return tuple(examples[chosen.index])

                gallery.select(take, outputs=[image, text], api_visibility="private")
        with gr.Column(scale=5):
            answer = gr.HTML('<p class="empty">The answer will stand here.</p>', elem_id="answer")
    with gr.Accordion("Asked in this session", open=False):
        asked = gr.HTML('<p class="empty">Nothing yet.</p>')

    async def reply(path: str | None, words: str, before: list[dict]) -> tuple[str, list[dict], str]:
        try:
            rendered, entry = await answer_one(engine, path, words)
        except (ValueError, RefusedError) as error:
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
        ValueError, RefusedError: nothing to answer, or nobody to do it.
    """
    predictor = engine.predictor
    example = (await asyncio.to_thread(predictor.prepare, [(path, text)]))[0]
    if isinstance(example, ValueError):
        raise ValueError(str(example).replace(f" {path}", ""))
    probabilities = (await engine.probabilities([example]))[0][None]
    found = predictor.describe(probabilities, NUM_ANSWERS)[0]
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
            **await asyncio.to_thread(heat_of, predictor, example),
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
    return Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)


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
    explanation: Explanation = predictor.explain(example.image, example.text)
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
    source = data.test or data.validation
    if source is None:
        return []
    try:
        rows, _ = scan_images(load_rows(source, "test", data), data)
    except ValueError as error:
        print(f"no examples on the page: {error}")
        return []
    folder = Path(tempfile.mkdtemp(prefix="examples-", dir=tempfile.gettempdir()))
    return [example for i in spread(rows, NUM_EXAMPLES) if (example := write_example(rows, i, folder))]


def write_example(rows: Rows, index: int, folder: Path) -> list[str]:
    example = rows[index]
    assert example.image is not None
    picture = decode_image(example.image)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    path = folder / f"{index}.png"
    picture.save(path)
    return [str(path), example.text or ""]


def many_tab(predictor: Predictor) -> None:
    """A table of texts, or an archive with a table and its pictures; a table of answers back."""
    columns = {"image": "image", "text": "text"} | (predictor.model.config.columns or {})
    gr.Markdown(
        f"A **CSV** with the column `{columns['text']}`, or a **zip** with one table and the pictures that its column "
        f"`{columns['image']}` names. A faulty row is told and the others are answered."
    )
    file = gr.File(label="CSV or zip", file_types=[".csv", ".tsv", ".jsonl", ".zip"], elem_id="rows")
    start = gr.Button("Answer all rows", variant="primary", elem_id="start")
    told = gr.Markdown(elem_id="told")
    table = gr.Dataframe(label="The first answers", interactive=False, visible=False)
    answers = gr.File(label="All answers", visible=False, elem_id="answers")

    def run_all(path: str | None, progress=PROGRESS) -> tuple:
        if path is None:
            raise gr.Error("Choose a file first.", print_exception=False)
        try:
            found = answer_file(predictor, Path(path), lambda rows: progress((rows, None), unit="rows"))
        except ValueError as error:
            raise gr.Error(str(error).replace(path, "The file"), print_exception=False) from None
        output = Path(tempfile.mkdtemp(prefix="answers-")) / "answers.csv"
        found.to_csv(output, index=False)
        faulty = int(found["error"].notna().sum())
        summary = f"**{len(found) - faulty:,} of {len(found):,} rows answered**" + (
            f", {faulty:,} not; the column `error` says why." if faulty else "."
        )
        return summary, gr.update(value=found.head(50), visible=True), gr.update(value=str(output), visible=True)

    start.click(run_all, file, [told, table, answers], api_name="answer_rows", concurrency_limit=1)


def answer_file(predictor: Predictor, path: Path, told) -> pd.DataFrame:
    """The answers to an uploaded table or archive; of a table alone no image is read, whatever paths it names."""
    if path.suffix.lower() == ".zip":
        with unpacked(path) as table:
            return answer_table(predictor, table, told=told)
    with tempfile.TemporaryDirectory() as nowhere:
        return answer_table(predictor, path, image_root=nowhere, told=told)


def report_frame(report: Path) -> str:
    """The run's report in a frame of its own."""
    if not report.is_file():
        return '<p class="empty">No report here. Make one: <code>python eval.py RUN --data.test rows.csv</code></p>'
    page = html.escape(report.read_text(encoding="utf-8"), quote=True)
    return f'<iframe class="report" title="evaluation report" sandbox srcdoc="{page}"></iframe>'


def training_tab(run: Path, tab: gr.Tab) -> None:
    """Curves of any run beside this one, drawn again every few seconds while it trains."""

    def runs() -> list[str]:
        return sorted(folder.name for folder in run.parent.glob("*") if (folder / "metrics.jsonl").is_file())

    if not runs():
        gr.HTML('<p class="empty">No run folder here: the model came alone.</p>')
        return
    chosen = gr.Dropdown(runs(), value=run.name if run.name in runs() else runs()[0], label="Run")
    told = gr.Markdown()
    curves = gr.Image(label="Curves", interactive=False, show_label=False, buttons=[], elem_id="curves")
    timer = gr.Timer(5)

    def draw(name: str) -> tuple[str, Image.Image | None]:
        if name not in runs():
            raise gr.Error("There is no such run.", print_exception=False)
        return draw_run(RunDir(run.parent / name))

    tab.select(lambda: gr.update(choices=runs()), outputs=chosen, show_progress="hidden", api_visibility="private")
    for event in (tab.select, chosen.change, timer.tick):
        event(draw, chosen, [told, curves], show_progress="hidden", api_visibility="private")


def draw_run(run: RunDir) -> tuple[str, Image.Image | None]:
    """How far a run is, and its curves."""
    records = run.records()
    steps, result = [r for r in records if "loss" in r], run.result()
    if not any("validation_accuracy" in r for r in records):
        return f"step {steps[-1]['step']:,}, the first epoch is under way" if steps else "just begun", None
    told = f"step {steps[-1]['step']:,}, loss {steps[-1]['loss']:.3f}"
    if result:
        told += f"; finished, {result['accuracy']:.1%} right on the {result['held_out']} rows"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curves.png"
        draw_curves(records, path)
        return told, Image.open(path).convert("RGB")


def code_tab(image: gr.Image, text: gr.Textbox, tab: gr.Tab, run: Path) -> None:
    """The same question from a shell and from Python."""
    gr.Markdown("What is on the first tab, asked by a program. `/openapi.json` describes every route.")
    shell = gr.Code(language="shell", label="curl", interactive=False)
    remote = gr.Code(language="python", label="Python, over the network", interactive=False)
    local = gr.Code(language="python", label="Python, in one's own process", interactive=False)

    def write(path: str | None, words: str | None, request: gr.Request) -> tuple[str, str, str]:
        assert request.request is not None
        return code_lines(path, words or "", str(request.request.base_url).rstrip("/"), run)

    tab.select(write, [image, text], [shell, remote, local], api_visibility="private")


def code_lines(path: str | None, text: str, address: str, run: Path) -> tuple[str, str, str]:
    """For curl, requests and `Predictor`."""
    name = Path(path).name if path else None
    quoted = "'" + text.replace("'", "'\\''") + "'"
    form = (f" -F image=@{name}" if name else "") + (f" -F text={quoted}" if text else "")
    files = f'files={{"image": open({json.dumps(name)}, "rb")}}, ' if name else ""
    return (
        f"curl{form or ' -F text=TEXT'} {address}/v1/predict",
        "import requests\n\n"
        f'reply = requests.post("{address}/v1/predict", {files}data={{"text": {json.dumps(text)}}})\n'
        'print(reply.json()["predictions"][0])',
        "from app import Predictor\n\n"
        f"predictor = Predictor.from_pretrained({json.dumps(str(run))})\n"
        f"print(predictor({json.dumps(name)}, {json.dumps(text)}))".replace("null", "None"),
    )
