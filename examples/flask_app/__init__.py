"""Sales reports: a Flask application with background jobs in its own database."""
