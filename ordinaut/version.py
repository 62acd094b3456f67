"""What this wheel is, and which API of the database it speaks."""

from __future__ import annotations

from typing import Final

__version__: Final = "0.1.0.dev0"

# Grows only when a SQL function changes in a way that old callers would feel; the database
# records the API of its installer and refuses workers of another one (OR090).
API: Final = 1
