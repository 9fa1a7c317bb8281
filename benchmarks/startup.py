"""``holdfast --help`` against the smallest typer program's ``--help``: what a command line costs before it works."""

from __future__ import annotations

import subprocess
import sys

from benchmarks import _harness

OURS = "from holdfast.cli import main; main(['--help'])"
PEER = """
import typer
app = typer.Typer()
@app.command()
def hello(name: str): ...
app(['--help'])
"""


def measure() -> _harness.Result:
    """Time both in fresh interpreters, bare Python's own start included in each."""

    def start(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)

    pairs = _harness.paired(lambda: start(OURS), lambda: start(PEER), repeats=11)
    return _harness.summarise("holdfast --help starts faster than an empty typer program", pairs, peer_name="typer")


if __name__ == "__main__":
    _harness.main(measure)
