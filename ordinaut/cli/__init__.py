"""The command `ordinaut`.  One module per group of commands; `main` is the entry point."""

from __future__ import annotations

from ordinaut.cli.main import app, main

__all__ = ["app", "main"]
