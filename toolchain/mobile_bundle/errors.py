"""The one exception that a person is meant to read."""

MOST_CHARACTERS = 600
_HEAD = 350
"""Of a longer message, the characters kept from its start; the rest of MOST_CHARACTERS comes from its end."""


class UserError(Exception):
    """A one-line message that says what is wrong and what to do; a command prints it and exits with status 1.

    Control characters and halves of surrogate pairs, which a hostile file could bring in through a name, become
    question marks. A message of more than MOST_CHARACTERS is cut in the middle: what is wrong stands at its start, what
    to do at its end."""

    def __init__(self, message: str) -> None:
        if len(message) > MOST_CHARACTERS:
            message = f"{message[:_HEAD]} ... {message[_HEAD + 5 - MOST_CHARACTERS :]}"
        super().__init__(printable(message))


class ResumableError(UserError):
    """Work was stopped by something outside its input (a full disk, a killed worker): the same command goes on."""


def printable(text: str) -> str:
    """The text on one line and valid in UTF-8: every character that has no picture becomes a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text)
