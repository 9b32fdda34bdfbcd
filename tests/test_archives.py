"""Archives of a table and its images."""

import stat
import zipfile

import pytest
from PIL import Image

from app import Predictor
from app.inference.batch_predict import answer_table
from app.serving.archive import unpacked
from data.errors import UserError


@pytest.fixture(scope="module")
def predictor(run_dir):
    return Predictor.from_pretrained(run_dir, precision="no")


@pytest.fixture
def archive(shapes_folder, tmp_path):
    """A function that zips files; by default the held-out table with its images."""

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


def test_a_link_in_an_archive_is_not_followed(predictor, tmp_path):
    """Its target is not read, whether the link is unpacked as a link or as a text file."""
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


def test_an_archive_is_answered_with_its_pictures(predictor, archive):
    with unpacked(archive()) as table:
        answers = answer_table(predictor, table)
        folder = table.parent
    assert answers["error"].isna().all()
    assert not folder.exists(), "nothing of an archive is kept"


def test_an_archive_that_macos_made_has_one_table(archive):
    with unpacked(archive({"rows.csv": b"text\nx\n", "__MACOSX/._rows.csv": b"\0\5\x16\7"})) as table:
        assert [path.name for path in table.parent.iterdir()] == ["rows.csv"]


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


def test_an_archive_with_a_name_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "rows.zip"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("é.csv", "text\nhow many circles?\n")
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(UserError, match="cannot be unpacked"), unpacked(path):
        pass


def test_a_file_that_is_not_an_archive_is_refused(tmp_path):
    (tmp_path / "rows.zip").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ValueError, match="cannot be unpacked"), unpacked(tmp_path / "rows.zip"):
        pass
