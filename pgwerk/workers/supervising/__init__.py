"""The parent of prefork workers: what it shares with its children, and how it watches them."""
