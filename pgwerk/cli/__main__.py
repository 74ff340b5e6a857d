"""`python -m pgwerk.cli` is `werk`."""

from pgwerk.cli import main

if __name__ == "__main__":
    main()
