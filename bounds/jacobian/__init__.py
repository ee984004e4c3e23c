"""Derivatives of graphs as graphs: Jacobians, products with vectors, and what bounds their norms."""

from provenn.bounds.jacobian._norms import NormGraph as NormGraph
from provenn.bounds.jacobian._norms import jacobian_norm as jacobian_norm
from provenn.bounds.jacobian._norms import norm_bounds as norm_bounds
from provenn.bounds.jacobian._norms import norm_graph as norm_graph
from provenn.bounds.jacobian._norms import spectral as spectral
from provenn.bounds.jacobian._norms import unbounded as unbounded
from provenn.bounds.jacobian._semidefinite import multiplier_bound as multiplier_bound
from provenn.bounds.jacobian._sweep import jacobian as jacobian
from provenn.bounds.jacobian._sweep import jacobian_vector as jacobian_vector
from provenn.bounds.jacobian._sweep import vector_jacobian as vector_jacobian
