"""What knows psycopg or the name of a table, apart from the executors of both faces."""
