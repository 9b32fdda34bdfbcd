"""Tables, folders and archives of pairs."""

import json
import re
import shlex
import stat
import zipfile
from contextlib import suppress

import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from PIL import Image

import eval as evaluation
from app import Predictor
from app.__main__ import main as app
from app.inference.batch_predict import answer_rows, answer_table, write_answers
from app.inference.table_rows import SourceRow, SourceRows, open_rows
from app.serving.archive import unpacked
from data.errors import UserError


@pytest.fixture(scope="module")
def predictor(run_dir):
    return Predictor.from_pretrained(run_dir, precision="no")


@pytest.fixture
def archive(shapes_folder, tmp_path):
    """A function that zips files; without arguments the held-out table with its pictures."""

    def write(files: dict[str, bytes] | None = None):
        path = tmp_path / "rows.zip"
        if files is None:
            pictures = sorted((shapes_folder / "images/test").iterdir())
            files = {str(file.relative_to(shapes_folder)): file.read_bytes() for file in pictures}
            files["test.csv"] = (shapes_folder / "test.csv").read_bytes()
        with zipfile.ZipFile(path, "w") as opened:
            for name, data in files.items():
                opened.writestr(name, data)
        return path

    return write


def test_a_table_is_answered_as_its_rows_are_one_by_one(predictor, shapes_folder):
    table = pd.read_csv(shapes_folder / "test.csv", keep_default_na=False)
    answers = answer_table(predictor, shapes_folder / "test.csv", batch_size=7)
    assert len(answers) == len(table)
    assert answers["error"].isna().all()
    for row in (0, 9, len(table) - 1):
        alone = predictor(shapes_folder / table["image"][row], table["text"][row], top_k=1)[0]
        assert answers["prediction"][row] == alone["label"]
        assert answers["probability"][row] == pytest.approx(alone["probability"], abs=1e-4)


def test_faulty_rows_are_told_and_the_others_answered(predictor, shapes_folder, tmp_path):
    image = next((shapes_folder / "images/test").iterdir())
    (tmp_path / "good.png").write_bytes(image.read_bytes())
    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:60])
    rows = [("good.png", "x"), ("broken.png", "x"), ("../secret.png", "x"), ("", ""), ("nowhere.png", "x"), ("", "x")]
    pd.DataFrame(rows, columns=["image", "text"]).to_csv(tmp_path / "rows.csv", index=False)
    answers = answer_table(predictor, tmp_path / "rows.csv")
    assert answers["prediction"].notna().tolist() == [True, False, False, False, False, True]
    for row, told in ((1, "not a readable"), (2, "leads out of"), (3, "has neither"), (4, "cannot open the file")):
        assert told in answers["error"][row]


@pytest.fixture
def owned(shapes_folder, tmp_path):
    """A table whose images lie outside its folder: above it, behind a link, and by an absolute path."""
    images = sorted((shapes_folder / "images/test").iterdir())[:3]
    (tmp_path / "above.png").write_bytes(images[0].read_bytes())
    (tmp_path / "table").mkdir()
    (tmp_path / "table/link").symlink_to(images[1].parent)
    rows = [("../above.png", "x"), (f"link/{images[1].name}", "x"), (str(images[2]), "x")]
    pd.DataFrame(rows, columns=["image", "text"]).to_csv(tmp_path / "table/rows.csv", index=False)
    return tmp_path / "table/rows.csv"


def test_the_owner_of_a_table_may_use_links_and_paths_that_a_stranger_may_not(run_dir, owned, predictor, tmp_path):
    command = ["predict", str(run_dir), "--data.test", str(owned), "--output", str(tmp_path / "answers.csv")]
    app(command)
    assert pd.read_csv(tmp_path / "answers.csv")["error"].isna().all()
    answers = answer_table(predictor, owned)
    assert answers["prediction"].isna().all()
    assert answers["error"].str.contains("leads out of").all()


def test_an_owner_may_confine_a_table(run_dir, owned, tmp_path, monkeypatch):
    output = tmp_path / "answers.csv"
    with suppress(SystemExit):  # no row is answered
        app(
            [
                "predict",
                str(run_dir),
                "--data.test",
                str(owned),
                "--output",
                str(output),
                "--data.confine_images",
                "true",
            ]
        )
    assert pd.read_csv(output)["error"].str.contains("leads out of").all()


def test_a_link_in_an_archive_leads_nowhere(predictor, tmp_path):
    """Whether it is unpacked as a link or as the text that it holds, what it points at is not read."""
    (tmp_path / "secret").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "secret/a.png")
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as opened:
        for name, target in (("a.png", tmp_path / "secret/a.png"), ("folder", tmp_path / "secret")):
            link = zipfile.ZipInfo(name)
            link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            opened.writestr(link, str(target))
        opened.writestr("rows.csv", f"image,text\na.png,x\nfolder/a.png,x\n{tmp_path}/secret/a.png,x\n")
    with unpacked(tmp_path / "rows.zip") as table:
        assert not any(path.is_symlink() for path in table.parent.iterdir())
        answers = answer_table(predictor, table)
    assert answers["prediction"].isna().all()


def test_a_link_beside_a_strangers_table_is_not_followed_out_of_its_folder(predictor, owned):
    (owned.parent / "good.png").write_bytes((owned.parent.parent / "above.png").read_bytes())
    (owned.parent / "inside").symlink_to(owned.parent / "good.png")
    owned.write_text("image,text\nlink/0.png,x\ninside,x\n")
    errors = answer_table(predictor, owned)["error"]
    assert "leads out of" in errors[0]
    assert pd.isna(errors[1])


@pytest.mark.parametrize("cell", ["data:image/png;base64," + "A" * 100_000, "iVBOR" * 20_000, "y" * 200 + ".png"])
def test_a_row_with_a_long_image_cell_has_a_short_error(predictor, tmp_path, cell):
    pd.DataFrame([(cell, "x")], columns=["image", "text"]).to_csv(tmp_path / "rows.csv", index=False)
    error = answer_table(predictor, tmp_path / "rows.csv")["error"][0]
    assert len(error) < 300
    assert cell[:81] not in error


def test_a_table_with_raw_bytes_is_answered(predictor, shapes_folder, tmp_path):
    image = next((shapes_folder / "images/test").iterdir())
    pd.DataFrame({"image": [image.read_bytes(), b"none", b""], "text": "x"}).to_parquet(tmp_path / "rows.parquet")
    answers = answer_table(predictor, tmp_path / "rows.parquet")
    assert answers["prediction"][0] == predictor(image, "x", top_k=1)[0]["label"]
    assert answers["error"][1].startswith("The image cannot be read: not a readable")
    assert pd.isna(answers["error"][2]), "asked without an image"


def test_rows_with_one_fault_stand_together_whatever_the_length_of_their_paths(predictor, tmp_path):
    names = [f"{number}{'x' * 100}.png" for number in range(3)] + [f"https://example.org/{n}{'y' * 90}" for n in "ab"]
    for name in names[:3]:
        (tmp_path / name).write_bytes(b"none")
    pd.DataFrame({"image": names, "text": "x"}).to_csv(tmp_path / "rows.csv", index=False)
    reasons = answer_rows(predictor, open_rows(predictor, tmp_path / "rows.csv")).reasons
    assert list(reasons.values()) == [[0, 1, 2], [3, 4]]


def test_a_folder_is_searched_for_all_formats_and_through_links(predictor, shapes_folder, tmp_path):
    image = next((shapes_folder / "images/test").iterdir())
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.JFIF", "c.avif", "d.heic", "e.txt"):
        (tmp_path / "photos" / name).write_bytes(image.read_bytes())
    (tmp_path / "photos/link").symlink_to(image.parent)
    (tmp_path / "photos/round").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/same").symlink_to(image.parent)
    answers = answer_table(predictor, tmp_path / "photos", text="how many shapes are there?")
    names = ["a.png", "b.JFIF", "c.avif", "d.heic", *(f"link/{i}.png" for i in range(8))]
    assert answers["image"].tolist() == [str(tmp_path / "photos" / name) for name in names]
    assert answers["error"].isna().all(), "the content tells the format"


def test_a_folder_of_images_is_asked_one_text(predictor, shapes_folder):
    answers = answer_table(predictor, shapes_folder / "images/test", text="how many shapes are there?")
    assert len(answers) == 8
    assert answers["error"].isna().all()


def test_a_source_without_the_columns_says_which(predictor, tmp_path):
    (tmp_path / "rows.csv").write_text("picture,question\na.png,what?\n")
    with pytest.raises(ValueError, match=r"neither the column of images, 'image', nor that of texts, 'text'"):
        answer_table(predictor, tmp_path / "rows.csv")


def test_an_archive_is_answered_with_its_pictures(predictor, archive):
    with unpacked(archive()) as table:
        answers = answer_table(predictor, table)
        folder = table.parent
    assert answers["error"].isna().all()
    assert not folder.exists(), "nothing of an archive is kept"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../rows.csv": b"text\nx\n"}, "outside itself"),
        ({"/etc/rows.csv": b"text\nx\n"}, "outside itself"),
        ({"a.csv": b"text\nx\n", "b.csv": b"text\nx\n"}, "found 2"),
        ({"a.png": b""}, "found 0"),
        ({f"{i}.png": b"" for i in range(21)}, r"21 files.*20"),
        ({"rows.csv": b"text\n" + b"x" * 20_000}, "larger than allowed"),
    ],
)
def test_a_hostile_archive_is_refused(archive, files, message):
    with pytest.raises(ValueError, match=message), unpacked(archive(files), max_files=20, max_bytes=10_000):
        pass


def test_an_archive_whose_packed_bytes_are_damaged_is_refused(archive, tmp_path):
    path = tmp_path / "rows.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("rows.csv", "text\n" + "how many circles?\n" * 50)
    data = bytearray(path.read_bytes())
    data[40:60] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be unpacked"), unpacked(path):
        pass


def test_bytes_of_a_picture_that_are_a_path_are_not_read(predictor, tmp_path):
    """A table of JSON can name anything in the place of the bytes that `datasets` would store."""
    table = tmp_path / "rows.jsonl"
    table.write_text(json.dumps({"image": {"bytes": "/etc/hostname", "path": None}, "text": "x"}) + "\n")
    answers = answer_table(predictor, table)
    assert answers["error"][0].startswith("An image as datasets stores them has bytes")


def test_more_rows_than_allowed_are_refused_before_any_is_answered(predictor, shapes_folder, monkeypatch):
    monkeypatch.setattr(predictor, "prepare", lambda pairs: pytest.fail("answered"))
    with pytest.raises(ValueError, match="The table has 96 rows; 95 are allowed"):
        answer_table(predictor, shapes_folder / "test.csv", max_rows=95)


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "rows.zip").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ValueError, match="cannot be unpacked"), unpacked(tmp_path / "rows.zip"):
        pass


def ask(*options) -> int:
    """The exit code of predict."""
    try:
        app(["predict", *map(str, options)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_most_probable_labels_stand_beside_the_answer(predictor, shapes_folder):
    table = pd.read_csv(shapes_folder / "test.csv", keep_default_na=False)
    answers = answer_table(predictor, shapes_folder / "test.csv", top_k=2)
    named = ["row", "image", "text", "prediction", "probability", "sure", "error"]
    assert list(answers) == [*named, "label_1", "probability_1", "label_2", "probability_2"]
    assert answers["row"].tolist() == list(range(len(table)))
    assert answers["image"].tolist() == table["image"].tolist()
    assert answers["text"].tolist() == table["text"].tolist()
    for row in (0, len(table) - 1):
        alone = predictor(shapes_folder / table["image"][row], table["text"][row], top_k=2)
        assert answers.loc[row, ["label_1", "label_2"]].tolist() == [answer["label"] for answer in alone]
        found = answers.loc[row, ["probability_1", "probability_2"]].tolist()
        assert found == pytest.approx([answer["probability"] for answer in alone], abs=1e-4)
    assert (answers["label_1"] == answers["prediction"]).all()


def test_more_labels_than_the_model_has_are_all_of_them(predictor, shapes_folder):
    answers, number = answer_table(predictor, shapes_folder / "test.csv", top_k=1000), len(predictor.labels)
    assert list(answers)[-2:] == [f"label_{number}", f"probability_{number}"]
    assert answers.filter(like="probability_").sum(axis=1).tolist() == pytest.approx([1] * len(answers), abs=1e-4)
    assert set(answers.filter(like="label_").iloc[0]) == set(predictor.labels)


def test_csv_and_parquet_hold_the_same(run_dir, shapes_folder, tmp_path, capsys):
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


def test_columns_of_a_parquet_file_have_their_types_even_where_they_are_empty(run_dir, shapes_folder, tmp_path):
    types = {}
    pd.DataFrame({"image": ["nowhere.png"], "text": ["x"]}).to_csv(tmp_path / "none.csv", index=False)
    for source, code in ((shapes_folder / "test.csv", 0), (tmp_path / "none.csv", 1)):
        assert ask(run_dir, "--data.test", source, "--output", tmp_path / "a.parquet") == code
        types[code] = [(field.name, field.type) for field in pq.read_schema(tmp_path / "a.parquet")]
    assert types[0] == types[1]


def test_texts_that_no_file_of_utf8_holds_are_written_out(predictor, tmp_path):
    rows = SourceRows([SourceRow(0, "a\udcff.png", UserError("no image at 'a\udcff.png'"), "b\0c")], 1)
    answers = answer_rows(predictor, rows).table
    write_answers(answers, tmp_path / "a.csv")
    write_answers(answers, tmp_path / "a.parquet")
    found = pd.read_parquet(tmp_path / "a.parquet").loc[0, ["image", "text", "error"]].tolist()
    assert found == [r"a\udcff.png", r"b\x00c", r"no image at 'a\udcff.png'"]


def test_rows_that_cannot_be_answered_are_counted_by_reason(run_dir, shapes_folder, tmp_path, capsys):
    """Images that are not there are one reason, whatever their names and however long these are."""
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


def test_a_text_that_is_none_is_a_fault_of_its_row(predictor, tmp_path):
    pd.DataFrame({"text": [["a", "b"], None]}).to_parquet(tmp_path / "rows.parquet")
    errors = answer_table(predictor, tmp_path / "rows.parquet")["error"]
    assert "['a', 'b']" in errors[0]
    assert "Give an image, a text or both" in errors[1]


def test_a_table_of_which_nothing_can_be_answered_ends_with_code_1(run_dir, shapes_folder, tmp_path, capsys):
    table = pd.read_csv(shapes_folder / "test.csv")
    table.to_csv(tmp_path / "elsewhere.csv", index=False)
    assert ask(run_dir, "--data.test", tmp_path / "elsewhere.csv", "--output", tmp_path / "a.csv") == 1
    told = capsys.readouterr()
    assert f"0 of {len(table)} rows answered, {len(table)} not" in told.out
    assert f"not answered: {len(table)} rows, such as row 0" in told.err
    assert "score the model" not in told.out
    options = ["--data.image_root", shapes_folder, "--output", tmp_path / "a.csv"]
    assert ask(run_dir, "--data.test", tmp_path / "elsewhere.csv", *options) == 0


def test_columns_are_named_as_for_training(run_dir, shapes_folder, tmp_path, capsys):
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


def test_a_column_that_is_not_there_is_told_and_the_rows_answered_without_it(run_dir, shapes_folder, tmp_path, capsys):
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


def test_rows_with_labels_are_pointed_to_eval_and_rows_without_to_predict(
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
def test_what_cannot_be_asked_or_written_is_told_before_the_model_is_loaded(
    shapes_folder, tmp_path, capsys, monkeypatch, options, told
):
    monkeypatch.setattr("app.inference.predictor.Predictor.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "folder.csv").mkdir()
    places = {"ROWS": str(shapes_folder / "test.csv"), "FOLDER.csv": str(tmp_path / "folder.csv")}
    assert ask("a/model", *(places.get(option, option) for option in options)) == 2
    assert told in capsys.readouterr().err
    assert (shapes_folder / "test.csv").read_text().startswith("image,text,label")


def test_the_folder_of_the_answers_is_made(run_dir, shapes_folder, tmp_path):
    output = tmp_path / "new/folder/answers.CSV"
    assert ask(run_dir, "--data.test", shapes_folder / "test.csv", "--output", output) == 0
    assert len(pd.read_csv(output)) == len(pd.read_csv(shapes_folder / "test.csv"))


def test_an_image_that_is_not_there_is_named(run_dir, capsys):
    assert ask(run_dir, "--image", "nowhere.png", "--text", "x") == 2
    assert "The image nowhere.png cannot be read" in capsys.readouterr().err


def test_a_table_without_rows_is_refused(predictor, monkeypatch):
    monkeypatch.setattr(
        "app.inference.table_rows.load_source", lambda *_, **__: (Dataset.from_dict({"text": []}), None)
    )
    with pytest.raises(ValueError, match=r"rows.csv has no rows"):
        answer_table(predictor, "rows.csv")
