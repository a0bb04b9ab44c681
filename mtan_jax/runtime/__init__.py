"""Devices, processes, checkpoints, locks and paths."""
