"""The one exception that a person is meant to read."""


class UserError(Exception):
    """A one-line message that says what is wrong and what to do; a command prints it and exits with status 1.

    Control characters, which a hostile file could bring in through a name, become question marks."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else "?" for c in message))


class ResumableError(UserError):
    """Work was stopped by something outside its input (a full disk, a killed worker): the same command goes on."""
