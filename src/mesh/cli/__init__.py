"""The ``mesh`` command.

Every command is imported when it is run, so that ``mesh --help`` answers at once.
"""

from mesh.cli.main import main

__all__ = ["main"]
