"""`python -m cli` is `lyra`."""

from cli.main import app

app()
