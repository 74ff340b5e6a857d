"""One SQL command per function, beside the reading of its rows."""
