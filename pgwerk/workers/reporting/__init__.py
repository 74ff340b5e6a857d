"""What a worker says to the world outside of Postgres: logs, a file for probes, systemd."""
