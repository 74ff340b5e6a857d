"""What mypy and pyright say of programs that use pgwerk: each file is read by both, and its tests are run.

A line that must be refused carries an ignore comment for each. An ignore that nothing needs is an error: mypy says so
everywhere, pyright in this directory, where it also heeds its own comments only (`pyproject.toml`).
"""
