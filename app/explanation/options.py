"""What can be asked of an explanation; importing it is fast, for the options of commands."""

from numbers import Integral
from typing import Literal

from data.errors import UserError

Method = Literal["integrated_gradients", "gradient", "occlusion", "readout"]
"""Names of the attribution methods, see `app.explanation.evidence.evidence`."""
MAX_MAPS = 3
"""Number of words with a map, by default."""


def check_number(name: str, value: object, least: int) -> None:
    """Check that the value of an option is a whole number of at least ``least``.

    Raises:
        UserError: another value.
    """
    if not isinstance(value, Integral) or value < least:
        raise UserError(f"{name} must be a whole number of at least {least}, got {value!r}.")
