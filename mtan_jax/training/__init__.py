"""The training loop, evaluation and working directories."""
