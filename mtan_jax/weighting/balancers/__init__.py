"""Methods that weight losses; they need one backward pass."""
