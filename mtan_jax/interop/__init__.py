"""Converts PyTorch weights to variables of our networks and back."""
