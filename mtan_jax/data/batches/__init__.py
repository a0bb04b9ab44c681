"""Makes batches from prepared datasets."""
