"""The tab that shows how a program asks."""

from __future__ import annotations

import shlex
from pathlib import Path

import gradio as gr
from gradio.route_utils import get_api_call_path, get_root_url


def code_tab(image: gr.Image, text: gr.Textbox, tab: gr.Tab, run: Path, has_key: bool, root_path: str) -> None:
    """The same question from a shell and from Python, to the address under which the page is shown."""
    gr.Markdown("What is on the first tab, asked by a program. `/openapi.json` describes every route.")
    shell = gr.Code(language="shell", label="curl", interactive=False)
    remote = gr.Code(language="python", label="Python, over the network", interactive=False)
    local = gr.Code(language="python", label="Python, in one's own process", interactive=False)

    def write(path: str | None, words: str | None, request: gr.Request) -> tuple[str, str, str]:
        assert request.request is not None
        address = get_root_url(request.request, get_api_call_path(request.request), root_path)
        return code_lines(path, words or "", address, run, has_key)

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
