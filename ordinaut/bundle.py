"""
The whole engine as one SQL file, for people who want no Python on the machine that installs.

Plain SQL in one transaction, so that psql, a web console and a migration tool can load it alike.
It leaves the same rows in schema_migration and loaded_code as `install` does, so that an
`ordinaut install` of the same version afterwards changes nothing, and one of a later version
upgrades.
"""

from __future__ import annotations

from pathlib import Path

from ordinaut.groundwork import BEGIN, BOOKS, ENSURE_PARTITIONS, SCHEMA
from ordinaut.schema import OLDEST_SERVER, code, code_sha256, migrations, quietly
from ordinaut.version import API, __version__

_REFUSE_USED_DATABASE = f"""
do $do$
begin
  if current_setting('server_version_num')::integer < {OLDEST_SERVER} then
    raise exception 'Ordinaut needs PostgreSQL 15 or newer, this is %',
      current_setting('server_version');
  end if;
  if exists (select from pg_class as c where c.relnamespace = to_regnamespace('ordinaut'))
  or exists (select from pg_proc as p where p.pronamespace = to_regnamespace('ordinaut')) then
    raise exception using
      message = 'schema ordinaut is already in use in database ' || current_database(),
      hint = 'This file is for empty databases. To upgrade: ordinaut install';
  end if;
end
$do$;
"""


def bundle(root: Path | None = None) -> str:
    """Return one SQL script that gives an empty database the complete engine.

    For `psql -f` and every other client: plain SQL, one transaction.  `install` afterwards
    changes nothing.
    """
    parts = [
        f"-- Ordinaut {__version__}, the complete engine, for an empty database (PostgreSQL 15 or"
        " newer):\n--     psql -v ON_ERROR_STOP=1 -f ordinaut.sql\n"
        "-- Generated from migrations/ and sql/; do not edit.  Upgrades: ordinaut install.\n",
        f"begin;\n{BEGIN}",
        _REFUSE_USED_DATABASE,
        SCHEMA,
        BOOKS,
    ]
    for m in migrations(root):
        parts.append(f"-- migrations/{m.file}\n\n{quietly(m)}")
        parts.append(
            "insert into ordinaut.schema_migration (version, name, sha256, applied_at)\n"
            f"values ({m.version}, '{m.name}', '{m.sha256}', statement_timestamp());\n"
        )
    parts += [f"-- sql/{name}\n\n{text}" for name, text in code(root).items()]
    parts.append(
        "insert into ordinaut.loaded_code (version, sha256, api, at)\n"
        f"values ('{__version__}', '{code_sha256(root)}', {API}, statement_timestamp());\n"
    )
    parts.append(ENSURE_PARTITIONS)
    return "\n".join([*parts, "commit;\n"])
