"""``python -m holdfast.cli``: the command where there is no script for it, such as inside a world."""

from holdfast.cli import entry

if __name__ == "__main__":
    entry()
