"""Reads raw files and detects raw layouts."""
