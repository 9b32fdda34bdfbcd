"""The page: answers with explanations, tables of rows, the evaluation and the training of a run."""

from __future__ import annotations

import hmac
import html
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils

from app.serving.engine import Engine
from app.serving.ui.ask_tab import ask_tab
from app.serving.ui.code_tab import code_tab
from app.serving.ui.page_input import INPUT_ERRORS, CheckedBlocks, fetch_nothing, refuse
from app.serving.ui.table_tab import table_tab
from app.serving.ui.training_tab import training_tab
from app.serving.ui.uploads import MAX_AGE
from app.training.run_folder import own_evaluation
from models.description import describe_model

HERE = Path(__file__).parent
MAX_QUEUE = 64
"""Maximum number of waiting jobs of the page."""
MAX_SESSIONS = 200
"""Maximum number of sessions whose history is kept in memory."""
CLEANUP_SECONDS = 300
"""Interval at which old uploads are deleted."""


def mount_page(app: FastAPI, engine: Engine, run: Path, api_key: str | None, root_path: str = "") -> FastAPI:
    """Mount the page at the root of the API's application.

    Args:
        api_key: password of the page, with any user name; ``None`` for a page without login.
        root_path: path under which a proxy publishes the application, for example ``/clf``.
    """
    page = build_page(engine, run, api_key is not None, root_path)
    page.has_launched = True  # otherwise gradio accepts any file of the server as an upload
    page.state_session_capacity = MAX_SESSIONS
    processing_utils.async_ssrf_protected_get = fetch_nothing
    mounted = gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth=None if api_key is None else lambda _, password: hmac.compare_digest(password.encode(), api_key.encode()),
        auth_message="The password is the key of the server.",
        show_error=False,
        run_history=False,
        root_path=root_path,
        app_kwargs={"exception_handlers": dict.fromkeys(INPUT_ERRORS, refuse)},
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gr.themes.Soft(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        head=f"<script>{(HERE / 'viewer.js').read_text(encoding='utf-8')}</script>",
    )
    engine.page_jobs = lambda: len(page._queue) + page._queue.get_active_worker_count()
    return mounted


def build_page(engine: Engine, run: Path, has_key: bool, root_path: str) -> gr.Blocks:
    """Build the tabs."""
    predictor = engine.predictor
    with CheckedBlocks(
        title=f"{run.name}: image + text", analytics_enabled=False, delete_cache=(CLEANUP_SECONDS, MAX_AGE)
    ) as page:
        parts = ", ".join(f"{part} {value}" for part, value in describe_model(predictor.model).items())
        gr.HTML(f'<header class="lead"><h1>{html.escape(run.name)}</h1><p>{html.escape(parts)}</p></header>')
        with gr.Tab("Ask") as asking:
            inputs, contexts = ask_tab(engine, run)
        with gr.Tab("Batch") as batch:
            table_tab(engine)
        with gr.Tab("Evaluation") as evaluation:
            gr.HTML(report_frame(own_evaluation(run) / "report.html"))
        with gr.Tab("Training") as training:
            timer = training_tab(run, training)
        with gr.Tab("Code") as code:
            code_tab(inputs, contexts, code, run, has_key, root_path)
        if timer is not None:
            for tab in (asking, batch, evaluation, code):
                tab.select(lambda: gr.Timer(active=False), outputs=timer, api_visibility="private")
    return page.queue(max_size=MAX_QUEUE)


def report_frame(report: Path) -> str:
    """The evaluation report of a run in a sandboxed frame."""
    if not report.is_file():
        return (
            '<p class="empty">There is no evaluation report. Create one: '
            "<code>python eval.py RUN --data.test rows.csv</code></p>"
        )
    page = html.escape(report.read_text(encoding="utf-8"), quote=True)
    return f'<iframe class="report" title="evaluation report" sandbox srcdoc="{page}"></iframe>'
