"""Errors that the user can put right."""


class UserError(ValueError):
    """Bad input, settings or environment: the message says what was expected, what came and what to do.

    Command lines print the message alone and exit with code 2. Any other exception is a bug and keeps its traceback.
    """
