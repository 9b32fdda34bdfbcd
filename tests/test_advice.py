"""A command can follow the advice that it prints, and refuses unwritable outputs before it starts."""

import ast
import re
import shlex
from contextlib import suppress

import pandas as pd
import pytest
from tiny import ROOT, TINY

import eval as evaluation
from app.__main__ import main as app
from app.settings_parser import parse_settings
from data import Example

OPTION = re.compile(r"--\w+\.\w+")
OF_TRAINING = {"prepare", "labels", "feature_store", "sampler", "split_notes", "stream", "shapes"}
"""Modules of ``data`` whose messages only a training prints."""


def told(capsys, main, *options) -> str:
    """The message of a command that stops with code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(option) for option in options])
    assert stop.value.code == 2
    return capsys.readouterr().err.split("error:", 1)[1]


@pytest.fixture
def tables(shapes_folder, tmp_path) -> dict:
    """Tables that commands cannot use: images elsewhere or missing, other columns, no texts."""
    rows = pd.read_csv(shapes_folder / "test.csv")[:6]
    found = {
        "columns": rows.rename(columns={"image": "file", "text": "question", "label": "answer"}),
        "elsewhere": rows,
        "outside": rows.assign(image="../../nowhere.png"),
        "bare": rows.assign(text=None),
    }
    for name, table in found.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    return {name: tmp_path / f"{name}.csv" for name in found}


@pytest.mark.parametrize("name", ["columns", "elsewhere", "outside", "bare"])
def test_options_that_a_command_advises_are_its_own(run_dir, tables, tmp_path, capsys, name):
    out, table = tmp_path / "out", tables[name]
    out.mkdir()
    advised = 0
    for main, command in (
        (evaluation.main, [run_dir, "--output_dir", out, "--data.test", table]),
        (app, ["predict", run_dir, "--output", out / "a.csv", "--data.test", table]),
        (app, ["export", run_dir, "--output", out / "onnx", "--int8", table]),
        (app, ["doctor", "--data.train", table]),
    ):
        if name == "bare" and main is app and command[0] != "doctor":
            continue  # a text may be missing
        with suppress(SystemExit):
            main([str(part) for part in command])
        for option in set(OPTION.findall("".join(capsys.readouterr()))):
            advised += 1
            assert f"{option}: expected one argument" in told(capsys, main, *command, option), command[0]
    assert advised or name == "elsewhere"


def test_advice_in_errors_of_reading_names_options_of_eval_or_of_training(capsys):
    found = {}
    for file in sorted((ROOT / "data").glob("*.py")):
        if file.stem in OF_TRAINING:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            parts = [node] if isinstance(node, ast.Constant) else getattr(node, "values", [])
            text = "".join(str(part.value) for part in parts if isinstance(part, ast.Constant))
            if isinstance(node, ast.JoinedStr | ast.Constant) and not re.search("[Tt]rain with|in training", text):
                found |= dict.fromkeys(OPTION.findall(text), file.name)
    assert "--data.image_root" in found
    for option, file in found.items():
        assert f"{option}: expected" in told(capsys, evaluation.main, "RUN", option), file


def test_a_study_takes_the_options_of_training_in_any_place(shapes_folder, capsys):
    rows = shapes_folder / "train.csv"
    assert "has no column 'answer'" in told(capsys, app, "doctor", "--data.label", "answer", "--data.train", rows)
    assert "has no column 'answer'" in told(capsys, app, "doctor", "--data.train", rows, "--data.label=answer")
    assert "did you mean 'data.label'?" in told(capsys, app, "doctor", "--data.train", rows, "--data.lable", "answer")
    options = ["--data.train", str(rows), "--data.slice_by", "[kind]", *TINY]
    app(["doctor", *options])
    command = shlex.split(capsys.readouterr().out.partition("Train with: ")[2])
    assert command[:2] == ["python", "train.py"]
    assert parse_settings(command[2:]) == parse_settings(options)
    for study in ("kfold", "ablate"):
        assert "no configuration file 'none.yaml'" in told(capsys, app, study, "none.yaml", "--train.epochs", "1")


def test_a_command_without_settings_of_training_refuses_them(capsys):
    assert "unrecognized arguments: --train.epochs 3" in told(capsys, app, "predict", "RUN", "--train.epochs", "3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "a.xyz"], "must end in .png, .jpg, .jpeg, .webp, .svg or .pdf, got a.xyz"),
        (["--output", "/dev/null/a.png"], "Cannot write in the folder /dev/null"),
        (["--image", "."], "is a folder, not an image file"),
        (["--image", "", "--text", " "], "Give --image FILE, --text TEXT or both"),
        (["--head", "1"], "add --matrices true"),
    ],
)
def test_explain_refuses_what_it_cannot_do_before_the_model_is_loaded(capsys, monkeypatch, options, message):
    monkeypatch.setattr("app.inference.predictor.Predictor.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    assert message in told(capsys, app, "explain", "RUN", "--image", "a.png", "--text", "x", *options)


def test_eval_and_export_refuse_an_unwritable_output_before_they_start(run_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("app.command_line.score_run.evaluate_to", lambda *_: pytest.fail("evaluated"))
    monkeypatch.setattr("app.inference.predictor.Predictor.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", "/dev/null/folder"):
        assert f"Cannot write in the folder {place}" in told(capsys, evaluation.main, run_dir, "--output_dir", place)
        assert f"Cannot write in the folder {place}" in told(capsys, app, "export", run_dir, "--output", place)
    compare = ["compare", run_dir, run_dir, "--output", "/dev/null/figures.json"]
    assert "Cannot write in the folder /dev/null" in told(capsys, evaluation.main, *compare)


def test_int8_calibration_rows_are_read_before_the_export_and_skipped_rows_are_counted(
    run_dir, shapes_folder, tmp_path, capsys, monkeypatch
):
    calls = []
    monkeypatch.setattr(
        "app.inference.onnx_export.export_onnx", lambda *_: calls.append("export") or (out / "model.onnx").touch()
    )
    monkeypatch.setattr(
        "app.inference.onnx_export.quantize", lambda folder, processor, examples: calls.append(examples)
    )
    rows, out = pd.read_csv(shapes_folder / "test.csv")[:9], tmp_path / "out"
    rows.to_csv(tmp_path / "elsewhere.csv", index=False)
    command = ["export", run_dir, "--output", out, "--int8", tmp_path / "elsewhere.csv"]
    assert "None of the 9 rows of " in told(capsys, app, *command)
    assert not calls
    rows.loc[2:3, "image"] = ["gone 1.png", "gone 2.png"]
    rows.to_csv(tmp_path / "elsewhere.csv", index=False)
    app([str(part) for part in (*command, "--int8_rows", 5, "--data.image_root", shapes_folder)])
    assert calls[0] == "export"
    assert [type(example) for example in calls[1]] == [Example] * 3
    assert re.search(r"2 of 5 rows of \S+ are left out: 2 × The image … cannot be read", capsys.readouterr().err)
    assert "--data.image is for the rows" in told(capsys, app, *command[:4], "--data.image", "file")


def test_an_export_is_not_exported_again(tmp_path, capsys, monkeypatch):
    class Exported:
        processor, model = None, None

    monkeypatch.setattr("app.command_line.export.OnnxModel", type(None))
    monkeypatch.setattr("app.inference.predictor.Predictor.from_pretrained", lambda *_, **__: Exported)
    assert "is an exported model already" in told(capsys, app, "export", "MODEL", "--output", tmp_path)
