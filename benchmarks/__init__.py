"""Rates of pgwerk beside those of a plain psycopg loop that writes the same rows, measured in the same minute."""
