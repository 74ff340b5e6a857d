"""Several statements, one meaning: generators that ask for statements and never wait themselves."""
