"""Tools that are careless with a secret, each in another way."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from ordinaut.tools.registry import Context


def fails(secret: str) -> None:
    raise ValueError(f"cannot log in with {secret!r}")


def chained(secret: str) -> None:
    try:
        raise KeyError(secret)
    except KeyError as exc:
        raise RuntimeError("wrapped") from exc


def returns(secret: Any) -> dict[str, Any]:
    return {"echo": secret, "in": [secret], str(secret): 1, "bytes": str(secret).encode()}


def prints(secret: str) -> None:
    print("out", secret)
    print("err", secret, file=sys.stderr)
    logging.getLogger("tool").error("logged %s", secret)
    warnings.warn(secret, stacklevel=1)


def notes(secret: str, context: Context) -> None:
    context.log(f"using {secret}", field=secret)
    context.progress(5, secret)


def exits(secret: str) -> None:
    sys.exit(secret)


def dies(secret: str) -> None:
    os._exit(9)


def hangs(secret: str, seen: str) -> None:
    Path(seen).touch()
    time.sleep(60)
