"""Errors that cross rooms: the user's input is wrong, or this process cannot go on."""


class InputError(Exception):
    """The user's input cannot be used. The message is one line, which names file, task, pair and cell. Exit code 2."""


class ProcessBroken(Exception):
    """This process cannot do any more work, but a new process may. The message is one line."""


def one_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters of it; its type if there is no message."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
