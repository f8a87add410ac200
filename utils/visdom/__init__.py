"""A run drawn in visdom."""

from .visualizer import Visualizer
