"""Metrics files, TensorBoard and figures."""
