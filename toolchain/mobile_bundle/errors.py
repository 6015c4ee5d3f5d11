"""The one exception that a person is meant to read."""


class UserError(Exception):
    """A one-line message that says what is wrong and what to do; a command prints it and exits with status 1."""
