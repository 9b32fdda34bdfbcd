"""The command that answers a table: its options, output files and messages."""

import re
import shlex

import pandas as pd
import pyarrow.parquet as pq
import pytest
from predict_command import ask

import eval as evaluation

pytestmark = pytest.mark.usefixtures("blank_charts")


def test_csv_and_parquet_answers_are_equal(run_dir, shapes_folder, tmp_path, capsys):
    table = pd.read_csv(shapes_folder / "test.csv").drop(columns="label")
    table.loc[1, "image"], table.loc[3, "image"] = "nowhere.png", None
    table.loc[3, "text"] = None
    table.to_csv(shapes_folder / "faulty.csv", index=False)
    for ending in ("csv", "parquet"):
        output = tmp_path / f"answers.{ending}"
        assert ask(run_dir, "--data.test", shapes_folder / "faulty.csv", "--top_k", "4", "--output", output) == 0
        assert f"{len(table) - 2} of {len(table)} rows answered, 2 not; wrote {output}" in capsys.readouterr().out
    csv, parquet = pd.read_csv(tmp_path / "answers.csv"), pd.read_parquet(tmp_path / "answers.parquet")
    assert list(csv) == list(parquet)
    for name in csv:
        assert csv[name].isna().tolist() == parquet[name].isna().tolist(), name
        assert csv[name].dropna().tolist() == parquet[name].dropna().tolist(), name
    assert parquet["prediction"].isna().tolist() == [number in (1, 3) for number in range(len(table))]


def test_columns_of_a_parquet_file_have_the_same_types_when_they_are_empty(run_dir, shapes_folder, tmp_path):
    types = {}
    pd.DataFrame({"image": ["nowhere.png"], "text": ["x"]}).to_csv(tmp_path / "none.csv", index=False)
    for source, code in ((shapes_folder / "test.csv", 0), (tmp_path / "none.csv", 1)):
        assert ask(run_dir, "--data.test", source, "--output", tmp_path / "a.parquet") == code
        types[code] = [(field.name, field.type) for field in pq.read_schema(tmp_path / "a.parquet")]
    assert types[0] == types[1]


def test_rows_that_cannot_be_answered_are_counted_by_reason(run_dir, shapes_folder, tmp_path, capsys):
    """Missing images are one reason, whatever the names and lengths of their paths."""
    table = pd.read_csv(shapes_folder / "test.csv")[["image", "text"]][:8]
    table.loc[2:5, "image"] = [f"{'deep/' * 40 * (number % 2)}gone {number}.png" for number in range(4)]
    table.loc[6, ["image", "text"]] = None
    table.to_csv(shapes_folder / "gone.csv", index=False)
    assert ask(run_dir, "--data.test", shapes_folder / "gone.csv", "--output", tmp_path / "a.csv") == 0
    told = capsys.readouterr()
    assert "3 of 8 rows answered, 5 not" in told.out
    lines = [line for line in told.err.splitlines() if "not answered" in line]
    assert len(lines) == 2
    assert re.search(r"not answered: 4 rows, such as row 2: The image .*gone 0\.png cannot be read", lines[0])
    assert "not answered: row 6: Give an image, a text or both" in lines[1]


def test_a_table_without_an_answerable_row_ends_with_code_1(run_dir, shapes_folder, tmp_path, capsys):
    table = pd.read_csv(shapes_folder / "test.csv")
    table.to_csv(tmp_path / "elsewhere.csv", index=False)
    assert ask(run_dir, "--data.test", tmp_path / "elsewhere.csv", "--output", tmp_path / "a.csv") == 1
    told = capsys.readouterr()
    assert f"0 of {len(table)} rows answered, {len(table)} not" in told.out
    assert f"not answered: {len(table)} rows, such as row 0" in told.err
    assert "score the model" not in told.out
    options = ["--data.image_root", shapes_folder, "--output", tmp_path / "a.csv"]
    assert ask(run_dir, "--data.test", tmp_path / "elsewhere.csv", *options) == 0


def test_columns_can_be_named_as_for_training(run_dir, shapes_folder, tmp_path, capsys):
    table = pd.read_csv(shapes_folder / "test.csv").rename(columns={"image": "file", "text": "question"})
    table.assign(hint="please").to_csv(shapes_folder / "named.csv", index=False)
    rows, output = ["--data.test", shapes_folder / "named.csv"], ["--output", tmp_path / "a.parquet"]
    assert ask(run_dir, *rows, *output) == 2
    assert "Name them with --data.image COLUMN and --data.text COLUMN" in capsys.readouterr().err
    named = ["--data.image", "file", "--data.text", "{question} {hint}"]
    assert ask(run_dir, *rows, *named, *output) == 0
    answers = pd.read_parquet(tmp_path / "a.parquet")
    assert answers["text"].tolist() == (table["question"] + " please").tolist()
    assert answers["image"].tolist() == table["file"].tolist()
    assert ask(run_dir, *rows, "--data.image", "fil", *output) == 2
    assert "has no column 'fil'" in capsys.readouterr().err


def test_a_missing_column_is_reported_and_the_rows_are_answered_without_it(run_dir, shapes_folder, tmp_path, capsys):
    table = pd.read_csv(shapes_folder / "test.csv")
    table[["text"]].to_csv(shapes_folder / "texts.csv", index=False)
    assert ask(run_dir, "--data.test", shapes_folder / "texts.csv", "--output", tmp_path / "a.csv") == 0
    assert "has no column 'image': its rows are answered without image (--data.image COLUMN)" in capsys.readouterr().out
    table[["image"]].to_csv(shapes_folder / "images.csv", index=False)
    options = ["--data.test", shapes_folder / "images.csv", "--text", "how many?", "--output", tmp_path / "a.csv"]
    assert ask(run_dir, *options) == 0
    assert "has no column" not in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "a.csv")["text"]) == {"how many?"}
    assert (
        ask(run_dir, "--data.test", shapes_folder / "test.csv", "--text", "how many?", "--output", tmp_path / "a.csv")
        == 2
    )
    assert "has texts of its own, in 'text': leave out --text" in capsys.readouterr().err


def test_predict_suggests_eval_for_labelled_rows_and_eval_suggests_predict_for_others(
    run_dir, shapes_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "two words"
    folder.mkdir()
    table = pd.read_csv(shapes_folder / "test.csv")[:9]
    table.to_csv(folder / "labelled.csv", index=False)
    root = ["--data.image_root", str(shapes_folder)]
    assert ask(run_dir, "--data.test", folder / "labelled.csv", *root) == 0
    command = shlex.split(capsys.readouterr().out.strip().splitlines()[-1])
    assert command[:2] == ["python", "eval.py"]
    assert evaluation.main([*command[2:], "--pictures", "0", "--output_dir", str(tmp_path / "out")])["rows"] == 9
    capsys.readouterr()
    tables = {"absent": table[["image", "text"]], "empty": table.assign(label=None)}
    tables["some"] = table.assign(label=[None, *table["label"][1:]])
    for name, rows in tables.items():
        rows.to_csv(folder / f"{name}.csv", index=False)
        with pytest.raises(SystemExit) as stop:
            evaluation.main(
                [str(run_dir), "--data.test", str(folder / f"{name}.csv"), *root, "--data.max_pixels", "9999"]
            )
        assert stop.value.code == 2
        command = shlex.split(capsys.readouterr().err.strip().splitlines()[-1])
        assert command[:4] == ["python", "-m", "app", "predict"]
        assert ask(*command[4:]) == 0
        assert len(pd.read_parquet(tmp_path / "answers.parquet")) == 9
        assert ("score the model" in capsys.readouterr().out) == (name == "some")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--data.test", "ROWS", "--output", "answers.xlsx"], "must end in .parquet or .csv, got answers.xlsx"),
        (["--data.test", "ROWS", "--output", "ROWS"], "would replace the rows themselves"),
        (["--data.test", "ROWS", "--output", "FOLDER.csv"], "is a folder; name a file in it"),
        (["--data.test", "ROWS", "--output", "/dev/null/a.csv"], "Cannot write in the folder /dev/null"),
        (["--data.test", "ROWS", "--image", "a.png"], "give one of them"),
        (["--output", "a.csv", "--text", "x"], "--output is for many pairs: add --data.test SOURCE"),
        (["--data.image", "file", "--text", "x"], "--data.image is for many pairs: add --data.test SOURCE"),
        ([], "Give --image FILE, --text TEXT or both"),
        (["--text", "  "], "Give --image FILE, --text TEXT or both"),
        (
            ["--image", "FOLDER.csv", "--text", "x"],
            "is a folder, not an image file; ask about all its images with --data.test",
        ),
        (["--text", "x", "--top_k", "0"], "0 does not conform to restriction"),
        (["--text", "x", "--top_k", "-1"], "-1 does not conform to restriction"),
        (["--data.test", "ROWS", "--top_k", "0"], "0 does not conform to restriction"),
    ],
)
def test_invalid_options_are_errors_before_the_model_is_loaded(
    shapes_folder, tmp_path, capsys, monkeypatch, options, told
):
    monkeypatch.setattr("app.inference.predictor.Predictor.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "folder.csv").mkdir()
    places = {"ROWS": str(shapes_folder / "test.csv"), "FOLDER.csv": str(tmp_path / "folder.csv")}
    assert ask("a/model", *(places.get(option, option) for option in options)) == 2
    assert told in capsys.readouterr().err
    assert (shapes_folder / "test.csv").read_text().startswith("image,text,label")


def test_the_folder_of_the_answers_is_created(run_dir, shapes_folder, tmp_path):
    output = tmp_path / "new/folder/answers.CSV"
    assert ask(run_dir, "--data.test", shapes_folder / "test.csv", "--output", output) == 0
    assert len(pd.read_csv(output)) == len(pd.read_csv(shapes_folder / "test.csv"))


def test_an_error_names_the_image_that_does_not_exist(run_dir, capsys):
    assert ask(run_dir, "--image", "nowhere.png", "--text", "x") == 2
    assert "The image nowhere.png cannot be read" in capsys.readouterr().err
