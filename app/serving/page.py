"""The page for people: ask about a picture, see where the model looked, many rows at once, how good it is."""

from __future__ import annotations

import asyncio
import hmac
import html
import logging
import shlex
import shutil
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import gradio as gr
import numpy as np
import pandas as pd
from fastapi import FastAPI
from gradio import processing_utils
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from app.explain import Explanation
from app.onnx_model import OnnxModel
from app.page import as_address, as_seen, describe_model
from app.predictor import Predictor
from app.report import draw_curves, spread
from app.run_dir import RunDir, own_evaluation
from app.serving.engine import Engine, RefusedError
from app.settings import load_settings
from app.tables import answer_table, unpacked
from data import Example, Rows, decode_image, load_rows, scan_images

log = logging.getLogger(__name__)
HERE = Path(__file__).parent
NUM_ANSWERS = 5
NUM_EXAMPLES = 6
MAX_HISTORY = 30
ASKING = 16
"""People whose questions are worked on at a time; their answers are made in batches."""
QUEUE = 64
"""People who may wait besides."""
MAX_SESSIONS = 200
"""Sessions whose last answers gradio keeps in memory."""
MAX_ROWS = 20_000
"""Rows of a table that the page answers."""
KEPT = 600
"""Seconds after which what was uploaded, and the answers to whole tables, may be deleted."""
ANSWERS = "answers-"
PICTURE_SIDE = 840
"""Longest side of the picture under the heat-map, in pixels."""
THUMBNAIL_SIDE = 88
PROGRESS = gr.Progress()
"""By this default value gradio knows that a function tells how far it is."""


def path_of(payload: ImageData | None) -> str | None:
    """In the place of `gr.Image.preprocess`, which opens a picture with every decoder it has, before ours is asked."""
    return None if payload is None else payload.path


async def fetch_nothing(url: str) -> NoReturn:
    """In the place of gradio's download of what a client names."""
    raise gr.Error("No address is fetched: upload the file.", print_exception=False)


def mount_page(app: FastAPI, engine: Engine, run: Path, api_key: str | None) -> FastAPI:
    """The page at the root of the API's application; with a key it is the password, whatever the user's name."""
    page = build_page(engine, run, api_key is not None)
    page.has_launched = True  # without it gradio lets a client name any file of the server as its upload
    page.state_session_capacity = MAX_SESSIONS
    processing_utils.async_ssrf_protected_get = fetch_nothing
    mounted = gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth=None if api_key is None else lambda _, word: hmac.compare_digest(word.encode(), api_key.encode()),
        auth_message="The password is the server's key.",
        show_error=False,
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gr.themes.Soft(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        head=f"<script>{(HERE / 'viewer.js').read_text(encoding='utf-8')}</script>",
    )
    engine.on_stop.append(lambda: page.app.stop_event.set())  # ends the streams of open pages
    return mounted


def build_page(engine: Engine, run: Path, has_key: bool) -> gr.Blocks:
    """The tabs."""
    predictor = engine.predictor
    with gr.Blocks(title=f"{run.name}: image + text", analytics_enabled=False, delete_cache=(300, KEPT)) as page:
        told = ", ".join(f"{part} {what}" for part, what in describe_model(predictor.model).items())
        gr.HTML(f'<header class="lead"><h1>{html.escape(run.name)}</h1><p>{html.escape(told)}</p></header>')
        with gr.Tab("Ask") as asking:
            image, text = ask_tab(engine, run)
        with gr.Tab("Batch") as many:
            many_tab(engine)
        with gr.Tab("Evaluation") as evaluation:
            gr.HTML(report_frame(own_evaluation(run) / "report.html"))
        with gr.Tab("Training") as training:
            timer = training_tab(run, training)
        with gr.Tab("Code") as code:
            code_tab(image, text, code, run, has_key)
        if timer is not None:
            for tab in (asking, many, evaluation, code):
                tab.select(lambda: gr.Timer(active=False), outputs=timer, api_visibility="private")
    return page.queue(max_size=QUEUE)


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
    (example,), probabilities = await engine.ask([(path, text)])
    if isinstance(example, ValueError):
        raise ValueError(str(example).replace(f" {path}", ""))
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
    source = data.test or data.validation
    if source is None:
        return []
    try:
        rows = load_rows(source, "test", data)
        with_text = np.flatnonzero([bool(text) for text in rows.texts])
        chosen = with_text[np.linspace(0, len(with_text) - 1, min(NUM_EXAMPLES, len(with_text))).round().astype(int)]
        rows, _ = scan_images(rows.select(chosen), data)
        folder = Path(tempfile.mkdtemp(prefix="examples-", dir=make_upload_folder()))
        return [write_example(rows, i, folder) for i in spread(rows, NUM_EXAMPLES)]
    except (ValueError, OSError) as error:
        print(f"no examples on the page: {error}")
        return []


def write_example(rows: Rows, index: int, folder: Path) -> list[str]:
    example = rows[index]
    assert example.image is not None
    picture = decode_image(example.image)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    path = folder / f"{index}.png"
    picture.save(path)
    return [str(path), example.text or ""]


def make_upload_folder() -> str:
    """Where gradio puts uploads and serves files from; `app.serving.server.serve` names one that goes with it."""
    folder = get_upload_folder()
    Path(folder).mkdir(parents=True, exist_ok=True)
    return folder


def many_tab(engine: Engine) -> None:
    """A table of texts, or an archive with a table and its pictures; a table of answers back."""
    predictor = engine.predictor
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

        def tell(rows: int) -> None:
            if engine.is_draining:
                raise ValueError("The server is stopping; ask another, or later.")
            progress((rows, None), unit="rows")

        try:
            found = answer_file(predictor, Path(path), tell)
        except ValueError as error:
            raise gr.Error(str(error).replace(path, "The file"), print_exception=False) from None
        forget_old_answers()
        output = Path(tempfile.mkdtemp(prefix=ANSWERS, dir=make_upload_folder())) / "answers.csv"
        found.to_csv(output, index=False)
        faulty = int(found["error"].notna().sum())
        summary = f"**{len(found) - faulty:,} of {len(found):,} rows answered**" + (
            f", {faulty:,} not; the column `error` says why." if faulty else "."
        )
        return summary, gr.update(value=found.head(50), visible=True), gr.update(value=str(output), visible=True)

    start.click(run_all, file, [told, table, answers], api_name="answer_rows", concurrency_limit=1)


def answer_file(predictor: Predictor, path: Path, told) -> pd.DataFrame:
    """The answers to an uploaded table or archive; of a table alone no image is read, whatever paths it names."""
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as nowhere:
        limits = {"told": told, "max_rows": MAX_ROWS, "cache_dir": cache}
        if path.suffix.lower() == ".zip":
            with unpacked(path) as table:
                return answer_table(predictor, table, **limits)
        return answer_table(predictor, path, image_root=nowhere, **limits)


def forget_old_answers() -> None:
    """Delete what was answered to whole tables some time ago; gradio deletes its own files only."""
    for folder in Path(make_upload_folder()).glob(f"{ANSWERS}*"):
        if time.time() - folder.stat().st_mtime > KEPT:
            shutil.rmtree(folder, ignore_errors=True)


def report_frame(report: Path) -> str:
    """The run's report in a frame of its own."""
    if not report.is_file():
        return '<p class="empty">No report here. Make one: <code>python eval.py RUN --data.test rows.csv</code></p>'
    page = html.escape(report.read_text(encoding="utf-8"), quote=True)
    return f'<iframe class="report" title="evaluation report" sandbox srcdoc="{page}"></iframe>'


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


def code_tab(image: gr.Image, text: gr.Textbox, tab: gr.Tab, run: Path, has_key: bool) -> None:
    """The same question from a shell and from Python."""
    gr.Markdown("What is on the first tab, asked by a program. `/openapi.json` describes every route.")
    shell = gr.Code(language="shell", label="curl", interactive=False)
    remote = gr.Code(language="python", label="Python, over the network", interactive=False)
    local = gr.Code(language="python", label="Python, in one's own process", interactive=False)

    def write(path: str | None, words: str | None, request: gr.Request) -> tuple[str, str, str]:
        assert request.request is not None
        return code_lines(path, words or "", str(request.request.base_url).rstrip("/"), run, has_key)

    tab.select(write, [image, text], [shell, remote, local], api_visibility="private")


def code_lines(path: str | None, text: str, address: str, run: Path, has_key: bool) -> tuple[str, str, str]:
    """For curl, requests and `Predictor`; a key is taken from the environment."""
    name = Path(path).name if path else None
    quoted = '"' + (name or "").replace("\\", "\\\\").replace('"', '\\"') + '"'
    form = (f" -F {shlex.quote(f'image=@{quoted}')}" if name else "") + (
        f" --form-string {shlex.quote(f'text={text}')}" if text else ""
    )
    files = f'files={{"image": open({name!r}, "rb")}}, ' if name else ""
    key = ' -H "Authorization: Bearer $API_KEY"' if has_key else ""
    headers = 'headers={"Authorization": "Bearer " + os.environ["API_KEY"]}, ' if has_key else ""
    return (
        f"curl{key}{form or ' -F text=TEXT'} {address}/v1/predict",
        ("import os\n\n" if has_key else "") + "import requests\n\n"
        f'reply = requests.post("{address}/v1/predict", {headers}{files}data={{"text": {text!r}}})\n'
        'print(reply.json()["predictions"][0])',
        "from app import Predictor\n\n"
        f"predictor = Predictor.from_pretrained({str(run)!r})\n"
        f"print(predictor({name!r}, {text or None!r}))",
    )
