"""Multi-Task Attention Networks in JAX."""
