import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["atari", "minigrid, evaluated"])
def test_runs_that_are_killed_end_as_those_that_are_not(kind):
    """A handful of kills; `python tests/faults/kills.py --kills 50` is the longer run."""
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), "--kills", "3", "--kinds", kind]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
