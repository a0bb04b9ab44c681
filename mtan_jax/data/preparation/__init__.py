"""Prepares datasets: converts raw files to ArrayRecord shards."""
