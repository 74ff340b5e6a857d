"""The demo: index the functions and classes of Python's own standard library, one job a file.

`jobs` is what an application would write, `app` is how it names its queue, `batch` enqueues and reads results,
`worker` runs `werk worker` beside it. The command is in `pgwerk.cli.demo`.
"""
