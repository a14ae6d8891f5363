"""`python -m fhrt`."""

from fhrt.cli import app

app(prog_name="fhrt")
