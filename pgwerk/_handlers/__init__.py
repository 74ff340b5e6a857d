"""Running one handler: in a thread, or as a task of a loop."""
