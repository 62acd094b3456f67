"""
Secrets are references in a payload, {"$secret": "name"}, and values only where a tool runs.

A value comes from the environment (ORDINAUT_SECRET_NAME), from a file called `name` in the
configured directory, or from systemd's credential `secret_name`.  Other credentials are the
worker's own, as the password of the database: no payload can name them.  From then on it is
masked in all that leaves this process through us: outputs, errors and notes.
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
        directory: where a file for each may be; None: the environment and credentials alone.
    """

    def __init__(self, directory: str | None) -> None:
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        self._files = [os.path.join(directory, "")] if directory else []
        self._files += [os.path.join(credentials, "secret_")] if credentials else []

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
        for prefix in self._files if secret is None else []:
            try:
                with open(prefix + name) as file:
                    secret = file.read().removesuffix("\n")
                break
            except FileNotFoundError:
                pass
            except (OSError, ValueError) as exc:
                raise ToolFailed(f"secret {name!r} cannot be read: {exc}", "E7002") from None
        if secret is None:
            where = "".join(f" or the file {prefix}{name}" for prefix in self._files)
            raise ToolFailed(f"this worker has no secret {name!r}: set {variable}{where}", "E7001")
        output.register_secret(secret)
        return secret
