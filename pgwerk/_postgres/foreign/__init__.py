"""Connections of other drivers that callers bring; each module imports only its own driver."""
