"""The backend behind ``memory://``: the core's questions answered from dicts, for tests and prototypes.

`store` holds the rows, `answers` has one function for each statement of `pgwerk._core.statements`, named and placed
as that one is; `backend` runs operations with them. What a job goes through is decided by the same operations,
procedures and workers as on Postgres.

`values` and `jsonb` refuse what Postgres refuses, with errors of the same class.
"""
