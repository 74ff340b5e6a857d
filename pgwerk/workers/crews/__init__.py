"""Who runs the handlers of a worker: threads, a loop, or processes."""
