"""What a graph can output: graphs, operators, bounds, and derivatives of graphs."""

from provenn.bounds.jacobian import jacobian as jacobian
from provenn.bounds.jacobian import jacobian_norm as jacobian_norm
from provenn.bounds.jacobian import norm_graph as norm_graph
from provenn.bounds.jacobian import vector_jacobian as vector_jacobian
