"""Tables, folders and archives of pairs."""

import json
import stat
import zipfile
from contextlib import suppress

import pandas as pd
import pytest
from PIL import Image

from app import Predictor
from app.__main__ import main as app
from app.tables import answer_table, unpacked


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
    command = ["predict", str(run_dir), "--rows", str(owned), "--output", str(tmp_path / "answers.csv")]
    app(command)
    assert pd.read_csv(tmp_path / "answers.csv")["error"].isna().all()
    answers = answer_table(predictor, owned)
    assert answers["prediction"].isna().all()
    assert answers["error"].str.contains("leads out of .*--data.confine_images false").all()


def test_an_owner_may_confine_a_table(run_dir, owned, tmp_path, monkeypatch):
    output = tmp_path / "answers.csv"
    with suppress(SystemExit):  # no row is answered
        app(["predict", str(run_dir), "--rows", str(owned), "--output", str(output), "--data.confine_images", "true"])
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


def test_a_folder_is_searched_for_all_formats_and_through_links(predictor, shapes_folder, tmp_path):
    image = next((shapes_folder / "images/test").iterdir())
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.JFIF", "c.avif", "d.heic", "e.txt"):
        (tmp_path / "photos" / name).write_bytes(image.read_bytes())
    (tmp_path / "photos/link").symlink_to(image.parent)
    (tmp_path / "photos/round").symlink_to(tmp_path / "photos")
    answers = answer_table(predictor, tmp_path / "photos", text="how many shapes are there?")
    assert answers["row"].tolist() == ["a.png", "b.JFIF", "c.avif", "d.heic", *(f"link/{i}.png" for i in range(8))]
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
        ({f"{i}.png": b"" for i in range(21)}, "holds 21 files; 20 are"),
        ({"rows.csv": b"text\n" + b"x" * 20_000}, "more than is allowed"),
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


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_command_line_answers_a_table(run_dir, shapes_folder, tmp_path, capsys, ending):
    output = tmp_path / f"answers.{ending}"
    app(["predict", str(run_dir), "--rows", str(shapes_folder / "test.csv"), "--output", str(output)])
    answers = pd.read_csv(output) if ending == "csv" else pd.read_parquet(output)
    assert f"{len(answers):,} of {len(answers):,} rows answered" in capsys.readouterr().out


def test_another_ending_is_refused_before_any_work(run_dir, shapes_folder, capsys):
    with pytest.raises(SystemExit):
        app(["predict", str(run_dir), "--rows", str(shapes_folder / "test.csv"), "--output", "answers.xlsx"])
    assert ".parquet or .csv" in capsys.readouterr().err
