"""How a run reports its progress: console, records, experiment trackers."""

from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from data.errors import UserError


def check_trackers(names: list[str]) -> None:
    """Refuse a tracker that accelerate does not know or whose package is not installed.

    Raises:
        UserError: names it, and those that are there.
    """
    known = sorted(tracker.value for tracker in LoggerType if tracker != LoggerType.ALL)
    there = sorted(tracker.value for tracker in get_available_trackers())
    for name in names:
        if name not in known:
            raise UserError(f"train.trackers: accelerate knows no tracker {name!r}; it knows {', '.join(known)}.")
        if name not in there:
            raise UserError(f"train.trackers: the package of {name!r} is not installed (pip install {name}).")
