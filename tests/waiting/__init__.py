"""Waiting for the ends of jobs, where both faces must do the same."""
