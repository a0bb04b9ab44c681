"""Readers of raw files and layouts."""
