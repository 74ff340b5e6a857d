"""Whoever runs jobs: one coordinator that talks to Postgres, and a crew that runs handlers."""
