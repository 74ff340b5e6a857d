"""Bridges to other libraries; each imports only its own."""
