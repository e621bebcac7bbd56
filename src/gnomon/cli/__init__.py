"""The command line."""

from gnomon.cli.app import main

__all__ = ["main"]
