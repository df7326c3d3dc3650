"""The two ways a run ends early: the user's input is wrong, or the budget cannot be met."""


class InputError(Exception):
    """The user's input cannot be used. The message is one line that names file, task, pair and cell; exit code 2."""


class ProcessBroken(Exception):
    """This process can do no more work, though another one may; the message is one line."""
