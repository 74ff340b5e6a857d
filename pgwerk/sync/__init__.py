"""The synchronous side: the app, its workers, and the executor below them."""
