"""Observers of a run are picked by name: getattr(watch, name). A new one is one file here and one line below."""

from .curves import Curves
from .history import History
from .pictures import Pictures
from .progress import Progress
