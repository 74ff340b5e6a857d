"""Other job queues, each in an environment of its own, measured in turns beside pgwerk and the raw reference."""
