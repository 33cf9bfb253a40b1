"""The one exception class that the command line turns into a single line and exit code 2."""


class InputError(ValueError):
    """Something the user gave is unusable: a path, a value, a file, a missing package.

    The message is one line that states the rule, the value and the way out. Everything else that is
    raised is a defect of ours or of the machine, and keeps its traceback.
    """
