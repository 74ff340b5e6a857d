"""What a job queue decides and asks, without IO. The layer's rules are in README.md beside this file."""
