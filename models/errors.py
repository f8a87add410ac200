"""What a model cannot do."""


class ModelError(ValueError):
    """A checkpoint, option or input that a model cannot use: one line that names it and says what to do."""
