"""Observers of a run are picked by name: getattr(watch, name). A new one is one file here and one line below."""

from .clearml import ClearML
from .curves import Curves
from .early_stopping import EarlyStopping
from .history import History
from .notify import Notify
from .pictures import Pictures
from .progress import Progress
from .tensorboard import TensorBoard
from .trackio import Trackio
