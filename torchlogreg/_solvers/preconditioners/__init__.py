"""Approximations of the inverse Hessian that the solvers start from."""
