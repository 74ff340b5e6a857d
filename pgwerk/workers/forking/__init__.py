"""Processes for handlers, forked by a process that has neither threads nor connections."""
