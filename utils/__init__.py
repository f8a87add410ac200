"""What carries and watches a run. Nothing in here knows a model or a data set by name."""


class UserError(Exception):
    """Something the user can mend: the message is one line that names the thing, the value and what to do."""
