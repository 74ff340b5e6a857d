"""The demo's app, as a worker imports it; PGWERK_DSN says where the jobs are."""

from pgwerk import Werk

app = Werk()
