"""Batches from prepared datasets."""
