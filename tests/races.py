"""The sessions of named races are part of the kit that ships: ordinaut/testing/races.py."""

from __future__ import annotations

from pathlib import Path

from ordinaut.testing.races import PATIENCE, Session

__all__ = ["PATIENCE", "Session"]

# The folder beside this file is our package: pytest would else import it in our place.
__path__ = [str(Path(__file__).with_suffix(""))]
