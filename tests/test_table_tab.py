"""The tab for tables, without a browser: errors that say what to do on the page, and answers that do not stay."""

import shutil
import tempfile
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from live import until

from app.serving.server import ServeSettings, load_predictor
from app.serving.ui import uploads
from app.serving.ui.table_tab import NO_IMAGES, answer_file, write_answers_file
from data.errors import UserError


@pytest.fixture(scope="module")
def predictor(run_dir):
    return load_predictor(str(run_dir), ServeSettings(precision="no"))


def answer(predictor, file: Path) -> pd.DataFrame:
    return answer_file(predictor, file, lambda rows: None)


def test_rows_with_images_of_a_table_alone_are_told_to_come_in_an_archive(predictor, tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("image,text\npicture.png,x\n../picture.png,x\n/etc/passwd,x\nhttp://x/y.png,x\n,x\n,\n")
    errors = answer(predictor, table)["error"]
    assert errors[:4].tolist() == [NO_IMAGES] * 4
    assert errors.notna().tolist() == [True, True, True, True, False, True]
    assert errors[5] != NO_IMAGES


def test_errors_of_an_archive_name_neither_options_of_commands_nor_folders_of_the_server(predictor, tmp_path):
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("rows.csv", "image,text\n../picture.png,x\nabsent.png,x\nbroken.png,x\n,\n")
        archive.writestr("broken.png", "no picture")
    errors = answer(predictor, tmp_path / "rows.zip")["error"]
    assert errors.notna().all()
    assert not errors.str.contains("--").any()
    assert not errors.str.contains(tempfile.gettempdir(), regex=False).any()
    for error, told in zip(errors, ("leads out of", "absent.png", "broken.png", "neither"), strict=True):
        assert told in error


def test_an_archive_without_errors_has_none(predictor, tmp_path, shapes_folder):
    image = next((shapes_folder / "images/test").iterdir())
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("rows.csv", "image,text\nimage.png,x\n,x\n")
        archive.write(image, "image.png")
    found = answer(predictor, tmp_path / "rows.zip")
    assert found["error"].isna().all()
    assert found["prediction"].notna().all()


@pytest.mark.parametrize("columns", ["image,image,text", "image,text,text"])
def test_a_repeated_column_is_to_be_renamed(predictor, tmp_path, columns):
    table = tmp_path / "rows.csv"
    table.write_text(f"{columns}\na,b,c\n")
    with pytest.raises(UserError, match="Rename all but one") as error:
        answer(predictor, table)
    assert "--" not in str(error.value)


def test_answers_are_deleted_after_a_while_without_another_table(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(uploads, "MAX_AGE", 0.5)
    written = Path(write_answers_file(pd.DataFrame({"error": ["private words"]})))
    assert "private words" in written.read_text()
    until(lambda: not written.parent.exists(), "the answers are deleted", 10)
    assert list(tmp_path.iterdir()) == []


def test_answers_that_are_deleted_already_do_no_harm(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(uploads, "MAX_AGE", 0.1)
    shutil.rmtree(uploads.make_answers_folder())
    other = uploads.make_answers_folder()
    until(lambda: not other.exists(), "the folder is deleted", 10)
    assert "Traceback" not in capfd.readouterr().err
