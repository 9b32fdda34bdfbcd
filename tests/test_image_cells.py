"""Images of rows: paths, links, bytes, and what cannot be read."""

from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from three_rows import ROWS, png, read, save_images, write

from data.hashing import content_key
from data.image_cells import resolve_image


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_images(tmp_path)


def test_corrupt_images_are_an_error_or_are_skipped_and_named(folder, capsys):
    (folder / "img" / "blue.png").write_bytes(png("blue")[:40])
    path = write(folder, "csv")
    with pytest.raises(ValueError, match=r"(?s)1 rows of .* cannot be read:\n  .*blue.png: not a readable"):
        read(path)
    rows = read(path, on_bad_image="skip")
    assert list(rows.labels) == ["red", "yes"]
    assert "blue.png" in capsys.readouterr().out


def test_a_relative_path_follows_the_current_folder(tmp_path, monkeypatch):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        PILImage.new("RGB", (4, 4)).save(tmp_path / name / "x.png")
        monkeypatch.chdir(tmp_path / name)
        assert resolve_image("x.png", None) == str(tmp_path / name / "x.png")


def test_an_image_cell_of_another_type_is_an_error(folder):
    with pytest.raises(ValueError, match=r"image column holds 7; expected the path of a file"):
        read(write(folder, "json", [row | {"image": 7} for row in ROWS]))


@pytest.fixture
def elsewhere(tmp_path_factory) -> Path:
    """A folder of images outside the folder of the table."""
    folder = tmp_path_factory.mktemp("big")
    for color in ("red", "blue"):
        (folder / f"{color}.png").write_bytes(png(color))
    return folder


@pytest.mark.parametrize("way", ["a link to the folder", "a link to each file", "..", "an absolute path"])
def test_images_may_be_outside_the_folder_of_the_table(tmp_path, elsewhere, way):
    names = {row["image"].removeprefix("img/") for row in ROWS}
    if way == "a link to the folder":
        (tmp_path / "img").symlink_to(elsewhere)
    elif way == "a link to each file":
        (tmp_path / "img").mkdir()
        for name in names:
            (tmp_path / "img" / name).symlink_to(elsewhere / name)
    start = {"..": f"../{elsewhere.name}", "an absolute path": str(elsewhere)}.get(way, "img")
    rows = [row | {"image": row["image"].replace("img", start)} for row in ROWS]
    if way == "..":
        tmp_path = elsewhere.parent / "tables"
        tmp_path.mkdir(exist_ok=True)
    path = write(tmp_path, "csv", rows)
    found = read(path)
    assert [found.decoded_image(i).getpixel((0, 0)) for i in range(3)] == [(255, 0, 0), (0, 0, 255), (255, 0, 0)]
    with pytest.raises(ValueError, match=r"3 rows of .*(?s:.*)leads out of (?s:.*)--data.confine_images false"):
        read(path, confine_images=True)


def test_a_confined_table_may_use_links_inside_its_folder(folder):
    (folder / "link").symlink_to(folder / "img")
    path = write(folder, "csv", [row | {"image": row["image"].replace("img", "link")} for row in ROWS])
    assert len(read(path, confine_images=True)) == 3


def test_windows_paths_and_home_folders_are_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    images = ["img\\red.png", "~/img/blue.png", "./img/../img/red.png"]
    rows = [row | {"image": image} for row, image in zip(ROWS, images, strict=True)]
    found = read(write(folder, "jsonl", rows))
    assert found.image_keys[0] == found.image_keys[2] != found.image_keys[1]
    assert len(read(write(folder, "csv"), image_root="~")) == 3


def test_an_existing_path_may_hold_any_character(tmp_path):
    names = ["a\\red.png", "~red.png", "http:red.png"]
    for name in names:
        (tmp_path / name).write_bytes(png("red"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a/red.png").write_bytes(png("blue"))
    rows = read(write(tmp_path, "jsonl", [row | {"image": name} for row, name in zip(ROWS, names, strict=True)]))
    assert {rows.decoded_image(i).getpixel((0, 0)) for i in range(3)} == {(255, 0, 0)}


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, list])
def test_bytes_in_the_image_column_are_the_image(kind):
    assert resolve_image(kind(png()), None) == {"bytes": png(), "path": None}
    assert resolve_image(kind(b""), None) is None


@pytest.mark.parametrize("column", ["binary", "numbers"])
def test_a_parquet_file_of_pandas_with_raw_bytes_is_read(folder, column):
    cells = [(folder / row["image"]).read_bytes() for row in ROWS]
    rows = [row | {"image": cell if column == "binary" else list(cell)} for row, cell in zip(ROWS, cells, strict=True)]
    found = read(write(folder, "parquet", rows))
    assert found.image_keys[0] == found.image_keys[2] == content_key(png("red"))
    assert [found.decoded_image(i).getpixel((0, 0)) for i in range(3)] == [(255, 0, 0), (0, 0, 255), (255, 0, 0)]


BIG = b"\x89PNG" + b"\0" * 400_000


@pytest.mark.parametrize(
    "cell",
    [
        "iVBOR" + "A/+4" * 100_000,
        "data:image/png;base64," + "A" * 400_000,
        "https://example.org/" + "a/" * 5000,
        "img/" + "x" * 240 + ".png",
        "deep/" * 200 + "red.png",
        ".." + "/up" * 200,
        [300] * 10_000,
        [[1, 2, 3]] * 10_000,
        {"data": "x" * 10_000},
        {"bytes": "x" * 10_000, "path": None},
        {"bytes": None, "path": "y" * 10_000},
        {"path": 7, "more": "z" * 100},
    ],
    ids=lambda cell: str(cell)[:12],
)
def test_a_message_shows_at_most_80_characters_of_a_cell(folder, cell):
    for confined in (False, True):
        rows = [row | {"image": cell} for row in ROWS]
        with pytest.raises(ValueError, match="have an image that cannot be read") as caught:
            read(write(folder, "json", rows), confine_images=confined)
        message = str(caught.value)
        assert max(map(len, message.replace(str(folder), "").split("\n"))) < 400
        assert str(cell)[:81] not in message
        assert str(cell)[-81:] not in message


def test_bytes_that_are_not_an_image_are_named_by_row(folder):
    with pytest.raises(ValueError, match=r"row 0, embedded image: not a readable") as caught:
        read(write(folder, "parquet", [row | {"image": BIG} for row in ROWS]))
    assert len(str(caught.value)) < 1000


def test_rows_with_invalid_image_cells_can_be_skipped(folder, capsys):
    rows = [ROWS[0], ROWS[1] | {"image": "ftp://example.org/x.png"}, ROWS[2]]
    assert list(read(write(folder, "csv", rows), on_bad_image="skip").labels) == ["red", "yes"]
    assert (
        "row 1, cell: 'ftp://example.org/x.png' is not the path of a file: it is an address" in capsys.readouterr().out
    )


def test_unreadable_embedded_images_are_named_by_row(tmp_path):
    broken = {"bytes": png()[:40], "path": None}
    rows = [{"image": {"bytes": png(), "path": None}}, {"image": broken}, {"image": broken}]
    features = Features({"image": Image(decode=False), "text": Value("string"), "label": Value("string")})
    table = Dataset.from_list([row | {"text": "a", "label": "b"} for row in rows], features=features)
    table.save_to_disk(tmp_path / "d")
    with pytest.raises(ValueError, match=r"(?s)2 rows .*row 1, embedded image: .*row 2, embedded image: "):
        read(tmp_path / "d")
