"""The one exception class that the command line turns into a single line and exit code 2."""


class InputError(ValueError):
    """Unusable input from the user: a path, a value, a file, a missing package.

    The message is one line with the rule, the value and the way out. Every other exception is a
    defect in deepprune or of the machine, and is shown with its traceback.
    """
