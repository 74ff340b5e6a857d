"""The one thread of a worker that talks to Postgres, and what it is made of."""
