"""Methods that evaluate losses at other parameters."""
