"""Errors that cross rooms: the user's input is wrong, or this process cannot go on."""


class InputError(Exception):
    """The user's input cannot be used. The message is one line, which names file, task, pair and cell. Exit code 2."""


class ProcessBroken(Exception):
    """This process cannot do any more work, but a new process may. The message is one line."""
