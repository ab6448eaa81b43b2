"""The Graphviz language: text in, nodes and edges out."""

from runyard.flow.dot.parser import parse
from runyard.flow.dot.tree import DotEdge, DotError, DotGraph, DotNode

__all__ = ["DotEdge", "DotError", "DotGraph", "DotNode", "parse"]
