"""Errors that a user can fix."""


class UserError(ValueError):
    """Invalid input, settings or environment. The message says what was expected, what was found, and how to fix it.

    Command lines print only the message and exit with code 2. Any other exception is a bug and keeps its traceback.
    """
