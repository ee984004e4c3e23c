"""The graph of tensor values: read it from ONNX, evaluate it, describe it."""

from provenn.bounds.graph._describe import describe as describe
from provenn.bounds.graph._describe import symbolic_note as symbolic_note
from provenn.bounds.graph._evaluate import Evaluator as Evaluator
from provenn.bounds.graph._evaluate import evaluate as evaluate
from provenn.bounds.graph._evaluate import evaluator as evaluator
from provenn.bounds.graph._graph import Graph as Graph
from provenn.bounds.graph._graph import Node as Node
from provenn.bounds.graph._interface import Expected as Expected
from provenn.bounds.graph._interface import Interface as Interface
from provenn.bounds.graph._isomorphic import check_isomorphic as check_isomorphic
from provenn.bounds.graph._module import example_of as example_of
from provenn.bounds.graph._module import read_module as read_module
from provenn.bounds.graph._onnx import read_onnx as read_onnx
