"""Methods that evaluate the losses at other parameters and wrap the rest of the chain."""
