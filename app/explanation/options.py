"""What can be asked of an explanation; importing it is fast, for the options of commands."""

from typing import Literal

Method = Literal["integrated_gradients", "gradient", "occlusion", "readout"]
"""Names of the attribution methods, see `app.explanation.evidence.evidence`."""
MAX_MAPS = 3
"""Number of words with a map, by default."""
