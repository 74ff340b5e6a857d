"""Watched pages: a FastAPI application whose background jobs live in its own database."""
