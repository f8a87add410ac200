"""Data sets are picked by name: getattr(data, opt.dataset). A new one is one file here and one line below."""

from .demo import Demo
from .dogcat import DogCat
