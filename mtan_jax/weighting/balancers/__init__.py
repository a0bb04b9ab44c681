"""Methods that weight the losses, in one backward pass."""
