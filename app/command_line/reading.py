"""Options that say how the rows of a table are read: the same for every command that takes rows."""

from dataclasses import dataclass, fields
from typing import Any

from jsonargparse.typing import PositiveInt

from app.settings_parser import spell
from data.paths import expand_home


@dataclass
class Reading:
    """How rows are read; as for the training by default."""

    image_root: str = ""
    """Folder that image paths are relative to; by default the folder of the table."""
    confine_images: bool | None = None
    """Refuse image paths that lead out of that folder, by .. or by links: for a table from someone else."""
    image: str = ""
    """Column of images."""
    text: str = ""
    """Column of texts, or a template such as "{question} {report}"."""
    max_pixels: PositiveInt | None = None
    """Refuse images with more pixels."""

    def __post_init__(self) -> None:
        self.image_root = expand_home(self.image_root)

    def given(self) -> dict[str, Any]:
        """The settings that were given: name → value."""
        return {name: value for name, value in vars(self).items() if value not in ("", None)}


@dataclass
class AnsweredRows(Reading):
    """Many pairs at once; columns are read as for the training by default."""

    test: str = ""
    """Rows to answer: a table, a folder of images with --text for all of them, or any other source of train.py."""
    pool: str = ""
    """Column whose rows share one answer, such as the case: each case is answered once, by the mean of the
    probabilities of its rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.test = expand_home(self.test)


def reading_options(data: Reading) -> dict[str, str]:
    """The options of `Reading` that were given: ``--data.name`` → value, as on the command line."""
    names, given = [field.name for field in fields(Reading)], data.given()
    return {f"--data.{name}": spell(given[name]) for name in names if name in given}
