"""Methods that combine the gradients of the tasks, one backward pass per task."""
