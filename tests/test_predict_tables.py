"""Answers to all rows of a table or all images of a folder."""

import json
import shutil
from contextlib import suppress

import pandas as pd
import pytest
from datasets import Dataset
from written_tables import write

from app import Predictor
from app.__main__ import main as app
from app.inference.batch_predict import answer_rows, answer_table, write_answers
from app.inference.table_rows import SourceRow, SourceRows, open_rows
from data.errors import UserError


@pytest.fixture(scope="module")
def predictor(run_dir):
    return Predictor.from_pretrained(run_dir, precision="no")


def test_a_table_gets_the_answers_that_its_rows_get_alone(predictor, shapes_folder):
    table = pd.read_csv(shapes_folder / "test.csv", keep_default_na=False)
    answers = answer_table(predictor, shapes_folder / "test.csv", batch_size=7)
    assert len(answers) == len(table)
    assert answers["error"].isna().all()
    for row in (0, 9, len(table) - 1):
        alone = predictor(shapes_folder / table["image"][row], table["text"][row], top_k=1)[0]
        assert answers["prediction"][row] == alone["label"]
        assert answers["probability"][row] == pytest.approx(alone["probability"], abs=1e-4)


def test_faulty_rows_have_errors_and_the_others_have_answers(predictor, shapes_folder, tmp_path):
    image = next((shapes_folder / "images/test").iterdir())
    (tmp_path / "good.png").write_bytes(image.read_bytes())
    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:60])
    rows = [("good.png", "x"), ("broken.png", "x"), ("../secret.png", "x"), ("", ""), ("nowhere.png", "x"), ("", "x")]
    pd.DataFrame(rows, columns=["image", "text"]).to_csv(tmp_path / "rows.csv", index=False)
    answers = answer_table(predictor, tmp_path / "rows.csv")
    assert answers["prediction"].notna().tolist() == [True, False, False, False, False, True]
    for row, told in ((1, "not a readable"), (2, "leads out of"), (3, "has neither"), (4, "cannot open the file")):
        assert told in answers["error"][row]


def test_few_large_pictures_of_a_table_are_held_at_once(predictor, shapes_folder, tmp_path, monkeypatch):
    files = sorted((shapes_folder / "images/test").iterdir())[:6]
    rows = {"image": [*map(str, files), "none.png", None], "text": "what shape is red?"}
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    together, held = answer_table(predictor, tmp_path / "rows.csv", confined=False), []
    answer = predictor.probabilities
    monkeypatch.setattr(predictor, "probabilities", lambda examples: held.append(len(examples)) or answer(examples))
    monkeypatch.setattr("app.inference.batch_predict.HELD_PIXELS", 64 * 64 + 1)
    few = answer_table(predictor, tmp_path / "rows.csv", confined=False)
    assert [number for number in held if number] == [2, 2, 2, 1]
    pd.testing.assert_frame_equal(few, together, atol=1e-4)


@pytest.fixture
def cases(shapes_folder, tmp_path):
    """A table of three cases, one of them with a broken image, and two rows without a case."""
    images = sorted((shapes_folder / "images/test").iterdir())
    (tmp_path / "broken.png").write_bytes(images[0].read_bytes()[:60])
    files = [images[0], images[1], tmp_path / "broken.png", *images[2:5], "none.png"]
    of_rows = {"image": [str(file) for file in files], "case": ["b", "a", "b", "b", None, None, "c"]}
    table = pd.DataFrame(of_rows | {"text": "what shape is red?"})
    table.to_csv(tmp_path / "cases.csv", index=False)
    return tmp_path / "cases.csv"


def test_a_case_is_answered_by_the_mean_probabilities_of_its_rows(run_dir, cases, predictor, tmp_path, capsys):
    output = tmp_path / "answers.parquet"
    app(["predict", str(run_dir), "--data.test", str(cases), "--data.pool", "case", "--output", str(output)])
    found = pd.read_parquet(output)
    assert found["case"].fillna("none").tolist() == ["b", "a", "none", "none", "c"]
    assert found["row"].tolist() == [0, 1, 4, 5, 6], "the first row of each"
    assert found["rows"].tolist() == [3, 1, 1, 1, 1]
    assert found["answered"].tolist() == [2, 1, 1, 1, 0]
    rows = pd.read_csv(cases)
    read = [
        predictor.preparation.prepare_one(rows["image"][row], rows["text"][row], 0, predictor.preparation.pictures())
        for row in (0, 3)
    ]
    mean = predictor.probabilities(read).mean(axis=0)
    assert found["prediction"][0] == predictor.labels[mean.argmax()]
    assert found["probability_1"][0] == pytest.approx(mean.max(), abs=1e-3)
    assert found["error"][0].startswith("row 2: ")
    assert pd.isna(found["prediction"][4])
    told = capsys.readouterr()
    assert "5 of 7 rows answered, as 5 cases, 2 not" in told.out
    assert "--data.pool" not in told.out, "rows without labels cannot be scored"
    labelled = tmp_path / "labelled.csv"
    rows.assign(label="red").drop(index=[2, 6]).to_csv(labelled, index=False)
    app(["predict", str(run_dir), "--data.test", str(labelled), "--data.pool", "case", "--output", str(output)])
    assert f"--data.test {labelled} --data.pool case" in capsys.readouterr().out
    assert "row 2: " in told.err
    assert "row 6: " in told.err


def test_a_folder_and_a_table_without_the_column_have_no_cases(predictor, shapes_folder, cases):
    with pytest.raises(UserError, match="no column 'case' of cases"):
        open_rows(predictor, shapes_folder / "images/test", pool="case")
    with pytest.raises(UserError, match=r"no column 'cas'.*Did you mean 'case'\?.*--data\.pool COLUMN"):
        open_rows(predictor, cases, pool="cas")


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


def test_only_tables_of_the_command_line_may_lead_out_of_their_folder(run_dir, owned, predictor, tmp_path):
    command = ["predict", str(run_dir), "--data.test", str(owned), "--output", str(tmp_path / "answers.csv")]
    app(command)
    assert pd.read_csv(tmp_path / "answers.csv")["error"].isna().all()
    answers = answer_table(predictor, owned)
    assert answers["prediction"].isna().all()
    assert answers["error"].str.contains("leads out of").all()


def test_the_command_line_can_confine_a_table_to_its_folder(run_dir, owned, tmp_path, monkeypatch):
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


def test_a_link_beside_an_uploaded_table_is_not_followed_out_of_its_folder(predictor, owned):
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


def test_rows_with_the_same_fault_are_grouped_even_if_their_paths_are_long(predictor, tmp_path):
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


@pytest.mark.parametrize("name", ["metadata.json", "metadata.txt", "metadata.xml"])
def test_a_folder_of_images_may_hold_other_metadata_than_a_table(name, predictor, shapes_folder, tmp_path):
    shutil.copyfile(shapes_folder / "images/test/0.png", tmp_path / "0.png")
    (tmp_path / name).write_text('{"title": "Summer", "photos": 1}')
    answers = answer_table(predictor, tmp_path, text="how many shapes are there?")
    assert answers["image"].tolist() == [str(tmp_path / "0.png")]


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_folder_with_a_table_of_its_images_is_answered_by_the_texts_of_the_table(
    kind, predictor, shapes_folder, tmp_path
):
    shutil.copyfile(shapes_folder / "images/test/0.png", tmp_path / "0.png")
    write(tmp_path / f"metadata.{kind}", pd.DataFrame({"file_name": ["0.png"], "text": ["how many?"]}))
    assert answer_table(predictor, tmp_path)["text"].tolist() == ["how many?"]


def test_all_images_of_a_folder_get_the_same_text(predictor, shapes_folder):
    answers = answer_table(predictor, shapes_folder / "images/test", text="how many shapes are there?")
    assert len(answers) == 8
    assert answers["error"].isna().all()


def test_an_error_names_the_missing_columns_of_a_source(predictor, tmp_path):
    (tmp_path / "rows.csv").write_text("picture,question\na.png,what?\n")
    with pytest.raises(ValueError, match=r"neither the column of images, 'image', nor that of texts, 'text'"):
        answer_table(predictor, tmp_path / "rows.csv")


def test_a_path_in_the_bytes_of_an_image_is_not_read(predictor, tmp_path):
    """A JSON table can have any value where `datasets` stores the bytes of an image."""
    table = tmp_path / "rows.jsonl"
    table.write_text(json.dumps({"image": {"bytes": "/etc/hostname", "path": None}, "text": "x"}) + "\n")
    answers = answer_table(predictor, table)
    assert answers["error"][0].startswith("An image as datasets stores them has bytes")


def test_more_rows_than_allowed_are_refused_before_any_is_answered(predictor, shapes_folder, monkeypatch):
    monkeypatch.setattr(predictor, "prepare", lambda pairs: pytest.fail("answered"))
    with pytest.raises(ValueError, match="The table has 96 rows; 95 are allowed"):
        answer_table(predictor, shapes_folder / "test.csv", max_rows=95)


def test_the_answers_have_columns_for_the_most_probable_labels(predictor, shapes_folder):
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


def test_top_k_above_the_number_of_labels_gives_all_labels(predictor, shapes_folder):
    answers, number = answer_table(predictor, shapes_folder / "test.csv", top_k=1000), len(predictor.labels)
    assert list(answers)[-2:] == [f"label_{number}", f"probability_{number}"]
    assert answers.filter(like="probability_").sum(axis=1).tolist() == pytest.approx([1] * len(answers), abs=1e-4)
    assert set(answers.filter(like="label_").iloc[0]) == set(predictor.labels)


def test_characters_that_utf8_cannot_encode_are_escaped(predictor, tmp_path):
    rows = SourceRows([SourceRow(0, "a\udcff.png", UserError("no image at 'a\udcff.png'"), "b\0c")], 1)
    answers = answer_rows(predictor, rows).table
    write_answers(answers, tmp_path / "a.csv")
    write_answers(answers, tmp_path / "a.parquet")
    found = pd.read_parquet(tmp_path / "a.parquet").loc[0, ["image", "text", "error"]].tolist()
    assert found == [r"a\udcff.png", r"b\x00c", r"no image at 'a\udcff.png'"]


def test_a_cell_that_is_not_a_text_is_an_error_of_its_row(predictor, tmp_path):
    pd.DataFrame({"text": [["a", "b"], None]}).to_parquet(tmp_path / "rows.parquet")
    errors = answer_table(predictor, tmp_path / "rows.parquet")["error"]
    assert "['a', 'b']" in errors[0]
    assert "Give an image, a text or both" in errors[1]


def test_a_batch_size_of_zero_is_refused_and_no_row_is_left_out(asked, tmp_path):
    (tmp_path / "rows.csv").write_text("question\nwhat color is the circle?\n")
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0"):
        answer_table(asked, tmp_path / "rows.csv", batch_size=0)


def test_a_table_without_rows_is_refused(predictor, monkeypatch):
    monkeypatch.setattr(
        "app.inference.table_rows.load_source", lambda *_, **__: (Dataset.from_dict({"text": []}), None)
    )
    with pytest.raises(ValueError, match=r"rows.csv has no rows"):
        answer_table(predictor, "rows.csv")
