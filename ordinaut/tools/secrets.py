"""
Secrets are references in a payload, {"$secret": "name"}, and values only where a tool runs.

A value comes from the environment (ORDINAUT_SECRET_NAME) or from a file called `name` in the
configured directory, by default systemd's CREDENTIALS_DIRECTORY.  From then on it is masked in
all that leaves this process through us: outputs, errors and notes.
"""

from __future__ import annotations

import os
import re
from typing import Any

from ordinaut.tools import output
from ordinaut.tools.errors import ToolFailed

REFERENCE = b'"$secret"'  # a payload without these bytes has no references
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class Secrets:
    """The secrets of this worker.

    Args:
        directory: where a file for each may be; None: the environment alone.
    """

    def __init__(self, directory: str | None) -> None:
        self._directory = directory or os.environ.get("CREDENTIALS_DIRECTORY")

    def resolve(self, value: Any) -> Any:
        """Return `value` with every reference replaced.

        Raises:
            ToolFailed: there is no such secret here.
        """
        if isinstance(value, dict):
            if value.keys() == {"$secret"}:
                return self._get(value["$secret"])
            return {key: self.resolve(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item) for item in value]
        return value

    def _get(self, name: Any) -> str:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ToolFailed(f"{name!r} is no name of a secret", "E7002")
        variable = "ORDINAUT_SECRET_" + re.sub(r"[.-]", "_", name).upper()
        secret = os.environ.get(variable)
        if secret is None and self._directory:
            try:
                with open(os.path.join(self._directory, name)) as file:
                    secret = file.read().removesuffix("\n")
            except FileNotFoundError:
                pass
            except (OSError, ValueError) as exc:
                raise ToolFailed(f"secret {name!r} cannot be read: {exc}", "E7002") from None
        if secret is None:
            where = f" or the file {name} in {self._directory}" if self._directory else ""
            raise ToolFailed(f"this worker has no secret {name!r}: set {variable}{where}", "E7001")
        output.register_secret(secret)
        return secret
