"""Prepares datasets: raw files to shards."""
