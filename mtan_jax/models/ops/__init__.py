"""Array operations and how each platform computes them."""
