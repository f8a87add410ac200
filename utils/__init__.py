"""What carries and watches a run. Nothing here knows a model or a data set by name: everything is handed to it."""

VERSION = "0.2.0"  # of hearth, as in pyproject.toml; every checkpoint and every run's record names it


class UserError(Exception):
    """Something the user can fix: one line that names the thing, the value and what to do."""
