"""Trainings with contexts beside the text: scored, answered, explained, served, and started from."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
from accelerate.state import AcceleratorState
from api_client import base64_of
from browser import browser
from datasets import Dataset
from gradio_client import Client, handle_file
from live import live
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from tiny import TINY, arguments, blank_charts, shared_encoder

import eval as evaluation
import train
from app import Predictor
from app.__main__ import main as app
from app.command_line.ask import Predict
from app.command_line.commands import Command, run_commands
from app.serving.server import ServeSettings, build_app, load_predictor
from app.serving.ui.code_tab import code_with_contexts
from app.settings_parser import load_settings
from data.errors import UserError

CONTEXTS = ["--context.question", "text", "--context.prior", "image"]
CONTEXTS += ["--context.patient", "{kind: features, columns: [age, sex]}"]


@pytest.fixture(scope="module")
def folder(shapes_folder, tmp_path_factory):
    """Pairs of pictures, an age and a sex, with a question each; the second half of the ages is empty in test.csv."""
    folder = tmp_path_factory.mktemp("contexts")
    for split in ("train", "test"):
        rows = pd.read_csv(shapes_folder / f"{split}.csv", keep_default_na=False).iloc[::5]
        images = [str(shapes_folder / name) for name in rows["image"]]
        rows = rows.assign(image=images, prior=images[1:] + images[:1], question=rows["text"])
        rows = rows.assign(age=np.arange(len(rows)) % 80, sex=np.where(np.arange(len(rows)) % 2, "F", "M"))
        rows.drop(columns="text").to_csv(folder / f"{split}.csv", index=False)
    return folder


def command(folder, run, *options: str) -> list[str]:
    return arguments(folder, run, "--train.epochs", "1", *options)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    with blank_charts():
        train.main(command(folder, run, *CONTEXTS, "--train.pictures", "2"))
    return run


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_a_run_reports_on_every_input_and_is_scored_again_with_the_same_figures(run, folder, capsys):
    figures = json.loads((run / "evaluation/test/metrics.json").read_text())
    inputs = ["image", "text", "prior", "patient"]
    assert list(figures["inputs"]["parts"]) == inputs
    assert "prior (image), patient (age, sex)" in (run / "model/README.md").read_text()
    given = ["all inputs", *(f"without {name}" for name in inputs), *(f"{name} shuffled" for name in inputs)]
    assert list(figures["scores"])[: len(given)] == given
    page = (run / "evaluation/test/report.html").read_text()
    for shown in ("<figcaption>prior</figcaption>", "patient: age ", "Without prior, “", "Without patient, “"):
        assert shown in page
    assert load_settings(run / "config.yaml").data.context["prior"] == "image"
    again = evaluation.main([str(run), "--data.test", str(folder / "test.csv"), "--pictures", "0"])
    assert again["scores"]["all inputs"]["accuracy"] == figures["scores"]["all inputs"]["accuracy"]
    alone = evaluation.main([str(run / "model"), "--data.test", str(folder / "test.csv"), "--pictures", "0"])
    assert alone["scores"]["all inputs"]["accuracy"] == figures["scores"]["all inputs"]["accuracy"]


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_a_run_is_compared_with_a_linear_classifier_of_every_input(run, tmp_path):
    figures = evaluation.main([str(run), "--baselines", "true", "--pictures", "0", "--output_dir", str(tmp_path)])
    linear = [f"linear, {name}" for name in ("text", "image", "prior", "patient", "all")]
    assert [name for name in figures["scores"] if name.startswith("linear")] == linear
    assert list(figures["advantage"]["gained"]) == linear
    columns = pd.read_parquet(tmp_path / "predictions.parquet").columns
    assert [name for name in columns if "linear" in name] == [f"correct ({name})" for name in linear]
    page = (tmp_path / "report.html").read_text()
    assert "linear, patient" in page
    assert "words of texts, pictures as features of the frozen image encoder, means of vectors" in page


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_tables_are_answered_with_their_contexts(run, folder, tmp_path, capsys):
    output = tmp_path / "answers.parquet"
    app(["predict", str(run), "--data.test", str(folder / "test.csv"), "--output", str(output)])
    answers = pd.read_parquet(output)
    scored = pd.read_parquet(run / "evaluation/test/predictions.parquet")
    assert answers["prediction"].tolist() == scored["prediction"].tolist()
    assert answers["probability"].to_numpy() == pytest.approx(scored["probability"].to_numpy(), abs=1e-3)
    table = pd.read_csv(folder / "test.csv").drop(columns="prior").assign(sex="X")
    table.to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(SystemExit):
        app(["predict", str(run), "--data.test", str(tmp_path / "rows.csv"), "--output", str(output)])
    told = capsys.readouterr()
    assert "its rows are answered without context.prior" in told.out
    assert "a category that no training row has" in told.err


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_an_onnx_export_has_the_contexts_and_the_answers_of_its_run(run, folder, tmp_path):
    app(["export", str(run), "--output", str(tmp_path / "onnx")])
    rows = pd.read_csv(folder / "test.csv")[:5].to_dict("records")
    rows[1]["prior"], rows[2]["age"], rows[3]["question"], rows[4]["image"] = None, None, None, None
    whole, exported = Predictor.from_pretrained(run, precision="no"), Predictor.from_pretrained(tmp_path / "onnx")
    for asked in (rows, rows[1:2], rows[:1] * 3):
        found = [[answer.answers[0]["probability"] for answer in one.predict(asked)] for one in (whole, exported)]
        assert found[1] == pytest.approx(found[0], abs=1e-4)
    AcceleratorState._reset_state(reset_partial_state=True)
    table = ["--data.test", str(folder / "test.csv"), "--pictures", "0", "--output_dir", str(tmp_path / "out")]
    scores = evaluation.main([str(tmp_path / "onnx"), *table])["scores"]
    AcceleratorState._reset_state(reset_partial_state=True)
    assert scores.keys() == json.loads((run / "evaluation/test/metrics.json").read_text())["scores"].keys()
    app(
        [
            "export",
            str(run),
            "--output",
            str(tmp_path / "int8"),
            "--int8",
            str(folder / "train.csv"),
            "--int8_rows",
            "16",
        ]
    )
    assert Predictor.from_pretrained(tmp_path / "int8").predict(rows)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_rows_pairs_and_commands_ask_with_contexts_and_get_the_answers_of_the_table(run, folder, tmp_path, capsys):
    predictor = Predictor.from_pretrained(run)
    scored = pd.read_parquet(run / "evaluation/test/predictions.parquet")["probability"][:3].to_numpy()
    frame = pd.read_csv(folder / "test.csv")[:3]
    rows = frame.to_dict("records")
    named = [{"prior": row["prior"], "patient": {"age": row["age"], "sex": row["sex"]}} for row in rows]
    pairs = [(row["image"], row["question"], contexts) for row, contexts in zip(rows, named, strict=True)]
    opened = [(image, text, given | {"prior": Image.open(given["prior"])}) for image, text, given in pairs]
    for asked in (frame, rows, Dataset.from_pandas(frame), pairs, opened):
        found = [answer.answers[0]["probability"] for answer in predictor.predict(asked)]
        assert found == pytest.approx(scored, abs=1e-3), type(asked)
    assert predictor(*pairs[0][:2], contexts=named[0])[0]["probability"] == pytest.approx(scored[0], abs=1e-3)
    explained = predictor.explain(*pairs[0][:2], contexts=named[0])
    assert explained.probability == pytest.approx(scored[0], abs=1e-3)
    assert explained.contexts["patient"] == f"age {rows[0]['age']}, sex {rows[0]['sex']}"
    alone = predictor(*pairs[0][:2], contexts=named[0] | {"prior": None}, top_k=19)
    without = next(answer["probability"] for answer in alone if answer["label"] == explained.answer)
    assert explained.context_effects["prior"] == pytest.approx(explained.probability - without, abs=1e-3)
    patient = f"{{age: {rows[0]['age']}, sex: {rows[0]['sex']}}}"
    options = [str(run), "--image", rows[0]["image"], "--text", rows[0]["question"]]
    options += ["--context.prior", rows[0]["prior"], "--context.patient", patient]
    app(["predict", *options])
    assert f"{scored[0]:.1%}" in capsys.readouterr().out
    app(["explain", *options, "--output", str(tmp_path / "why.png"), "--method", "gradient"])
    assert (tmp_path / "why.png").is_file()


@pytest.mark.parametrize("text", ["Findings: small nodule", "No", "12.50", "null", "[a, b]", "'quoted'", "ä=1 \\n"])
@pytest.mark.parametrize("equals", [False, True])
def test_a_text_of_the_command_line_stays_as_it_is(text, equals):
    given = []
    command = Command(Predict, lambda options: given.append(options.context))
    option = [f"--context.note={text}"] if equals else ["--context.note", text]
    run_commands("app", "", {"predict": command}, ["predict", "RUN", *option, "--top_k", "2"])
    assert given == [{"note": text}]


@pytest.mark.slow
def test_rows_and_folders_without_a_context_are_refused(run, folder, tmp_path, capsys):
    predictor = Predictor.from_pretrained(run)
    rows = pd.read_csv(folder / "test.csv")[:1].rename(columns={"age": "Age"}).to_dict("records")
    with pytest.raises(UserError, match="has no column 'age' of the context patient"):
        predictor.predict(rows)
    with pytest.raises(SystemExit):
        app(["predict", str(run), "--data.test", str(tmp_path), "--output", str(tmp_path / "a.csv")])
    assert "without the contexts prior, patient of the model: give a table" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("contexts", "told"),
    [
        (None, r"also has the contexts prior, patient\. Give each a value, or None \(null\) if it is missing"),
        ({"sound": 1}, "no context 'sound'; its contexts are prior, patient"),
        ({"prior": None, "patient": 3}, "has the columns age, sex: give {column: value}"),
        ({"prior": None, "patient": {"weight": 3}}, "no column 'weight'; its columns are 'age', 'sex'"),
        ({"prior": None, "patient": {"age": "old"}}, "context patient has 'old' in the column age"),
        ({"prior": "none.png", "patient": None}, "The image none.png cannot be read"),
    ],
)
def test_contexts_that_do_not_fit_the_model_are_refused(run, contexts, told):
    with pytest.raises(UserError, match=told):
        Predictor.from_pretrained(run)(None, "what?", contexts=contexts)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_frozen_encoders_are_cached_for_both_pictures_and_another_run_starts_from_it(folder, run, tmp_path, capsys):
    frozen = ["--train.scales.image_encoder", "0", "--train.scales.text_encoder", "0"]
    first = train.main(command(folder, tmp_path / "first", *CONTEXTS, *frozen))
    assert (first / "summary.txt").is_file()
    sources = ["--data.train", str(folder / "train.csv"), "--data.test", str(folder / "test.csv")]
    start = [
        *sources,
        "--model.init",
        str(run),
        "--train.epochs",
        "1",
        "--train.pictures",
        "0",
        "--train.trackers",
        "[]",
    ]
    train.main([*start, *CONTEXTS, "--run_dir", str(tmp_path / "second")])
    with pytest.raises(SystemExit):
        train.main([*start, "--context.question", "text", "--run_dir", str(tmp_path / "third")])
    assert "has the contexts a text, prior (image: prior), patient (columns: age, sex)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_a_model_without_a_text_trains_without_a_text_encoder(folder, tmp_path, capsys):
    options = ["--context.prior", "image", "--model.text_encoder", "nobody/has-this"]
    run = train.main(command(folder, tmp_path / "run", *options))
    told = capsys.readouterr().out
    assert ", no texts\n" in told
    assert not any(word in told for word in ("without text", "words", "tokens"))
    figures = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert list(figures["inputs"]["parts"]) == ["image", "prior"]
    assert "prior (image)" in (run / "model/README.md").read_text()
    predictor = Predictor.from_pretrained(run)
    with pytest.raises(UserError, match="The model has no text"):
        predictor.preparation.prepare_one(None, "what?", 0, predictor.preparation.pictures())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prior": "nowhere.png"}, "row 1, prior: cannot open the file"),
        ({"prior": ""}, "row 1, prior: the cell is empty"),
        ({"age": "old"}, "row 1, patient: 'old' in the column age"),
    ],
)
def test_a_faulty_context_is_named_by_row_and_column_before_training(folder, tmp_path, change, told, capsys):
    table = pd.read_csv(folder / "train.csv", dtype=str)
    for name, value in change.items():
        table.loc[1, name] = value
    table.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(SystemExit):
        train.main(command(tmp_path, tmp_path / "run", *CONTEXTS, "--data.test", str(folder / "test.csv")))
    assert told in capsys.readouterr().err


def test_the_doctor_examines_data_with_contexts(folder, tmp_path, capsys):
    table = pd.read_csv(folder / "train.csv")
    table.loc[0, "prior"] = str(tmp_path / "first.png")  # a picture that no row has as its image
    Image.new("RGB", (32, 32), "white").save(table.loc[0, "prior"])
    table.to_csv(tmp_path / "train.csv", index=False)
    options = [*TINY, "--model.image_encoder", shared_encoder(), *CONTEXTS]
    app(["doctor", "--data.train", str(tmp_path / "train.csv"), "--data.test", str(folder / "test.csv"), *options])
    told = capsys.readouterr().out
    assert "warnings. Train with: python train.py --data.train" in told
    figure = r"\d+\.\d%, on "
    contexts = f"the context prior {figure}the context patient {figure}all inputs"
    assert re.search(rf"regression on the words {figure}the image \(features .*\) {figure}{contexts} \d", told)


@pytest.fixture(scope="module")
def pairs(run, folder):
    """The first held-out rows as the API takes them, and the probabilities of their answers."""
    rows = pd.read_csv(folder / "test.csv")[:2].to_dict("records")
    found = [
        {
            "image": base64_of(Path(row["image"]).read_bytes()),
            "text": row["question"],
            "contexts": {
                "prior": base64_of(Path(row["prior"]).read_bytes()),
                "patient": {"age": row["age"], "sex": row["sex"]},
            },
        }
        for row in rows
    ]
    return found, pd.read_parquet(run / "evaluation/test/predictions.parquet")["probability"][:2].to_numpy()


@pytest.fixture(scope="module")
def served(run):
    application, _ = build_app(load_predictor(str(run), ServeSettings()), run, ServeSettings())
    with live(application) as address:
        yield address


@pytest.mark.slow
def test_the_api_describes_and_takes_contexts_and_reads_no_file_of_the_server(served, pairs, folder):
    inputs, probabilities = pairs
    assert requests.get(f"{served}/v1/model").json()["contexts"] == [
        {"name": "prior", "kind": "image", "columns": ["prior"]},
        {"name": "patient", "kind": "features", "columns": ["age", "sex"]},
    ]

    def ask(*inputs, **options) -> dict:
        return requests.post(f"{served}/v1/predict", json={"inputs": inputs} | options)

    found = ask(*inputs, explain=True).json()["predictions"]
    assert [one["answers"][0]["probability"] for one in found] == pytest.approx(probabilities, abs=1e-3)
    assert found[0]["explanation"]["probability"] == pytest.approx(probabilities[0], abs=1e-3)
    for change, told in (
        (None, "also has the contexts prior, patient"),
        ({"prior": str(folder / "test.csv"), "patient": None}, "base64"),
        ({"prior": 3, "patient": None}, "is a file: send it in base64"),
        ({"prior": None, "patient": {"age": str(folder / "a.npy"), "sex": "F"}}, "names a file; send its numbers"),
        ({"prior": None, "patient": {"age": [1.0, 2.0], "sex": None}}, "context patient has"),
        ({"prior": None, "patient": {"age": 3, "sex": {"F": 1}}}, "no number, category, vector"),
        ({"prior": None, "patient": {"age": 10**20, "sex": "X"}}, "a category that no training row has"),
        ({"prior": None, "patient": {"age": 10**400, "sex": "F"}}, "not finite in single precision"),
    ):
        reply = ask(inputs[0] | {"contexts": change})
        assert reply.status_code == 422
        assert told in reply.json()["error"]["message"]
    form = requests.post(f"{served}/v1/predict", files={"text": (None, "what?")})
    assert "also has the contexts" in form.json()["error"]["message"]


def test_the_shell_code_sends_the_bytes_of_files_and_the_text_as_it_is(tmp_path):
    """A here-document expands $ and backticks; names of files are replaced by their content."""
    (tmp_path / "a $HOME`b`.png").write_bytes(b"one")
    (tmp_path / "c.png").write_bytes(b"two")
    contexts = {"prior": "c.png", "patient": {"age": 3.0, "sex": "$F"}}
    text = 'what\'s `this` \\ "$HOME"?'
    options = {"address": "http://x", "run": tmp_path, "has_key": False}
    shell, remote, local = code_with_contexts("a $HOME`b`.png", text, contexts, {"prior"}, **options)
    shown = subprocess.run(["bash", "-c", f"curl() {{ cat; }}; {shell}"], cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(shown.stdout) == {
        "inputs": [
            {
                "image": base64_of(b"one"),
                "text": text,
                "contexts": {"prior": base64_of(b"two"), "patient": {"age": 3.0, "sex": "$F"}},
            }
        ]
    }
    compile(remote, "remote", "exec")
    compile(local, "local", "exec")
    assert "read('c.png')" in remote


@pytest.mark.slow
def test_the_page_asks_with_contexts_and_writes_code_for_them(served, pairs, folder):
    row = pd.read_csv(folder / "test.csv").iloc[0]
    client = Client(served, verbose=False)
    given = handle_file(row["image"]), row["question"], handle_file(row["prior"]), float(row["age"]), row["sex"]
    answer, *_ = client.predict(*given, api_name="/ask")
    assert f"{100 * pairs[1][0]:.1f} %" in answer
    with browser(1200) as chrome:
        chrome.get(served)

        def find(selector):
            return WebDriverWait(chrome, 30).until(
                lambda c: next((e for e in c.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()), None)
            )

        find("#examples button img").click()
        WebDriverWait(chrome, 30).until(lambda c: find("#text textarea").get_attribute("value"))
        assert find("#context-prior img").get_attribute("src")
        find("#ask").click()
        assert find(".answer .best").text
        next(tab for tab in chrome.find_elements(By.CSS_SELECTOR, "button[role=tab]") if tab.text == "Code").click()
        WebDriverWait(chrome, 30).until(lambda c: "base64 -w0" in find(".cm-content").text)
