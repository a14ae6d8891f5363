"""README's commands are a promise: a newcomer copies them, and .ci/run runs them as they stand."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = ["pip install . && fhrt demo", 'pip install ".[dev]" && pytest']


def test_first_two_code_blocks_are_the_two_commands() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks[:2] == [f"{command}\n" for command in COMMANDS]


def test_ci_runs_exactly_these_commands() -> None:
    assert re.findall(r"^(?:first|second)='(.*)'$", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE) == COMMANDS
