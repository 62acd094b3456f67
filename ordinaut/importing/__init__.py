"""
Moving in: what another scheduler was told to do, as a manifest, and the proof that it is the same.

    crontab.py    a crontab, read as Debian's cron reads it        -> Found
    pgcron.py     the rows of pg_cron's table                      -> Found
    found.py      jobs, and lines that are none; names for tasks
    document.py   Found as a manifest; what was left out is in it as a comment
    proof.py      the next 1000 firing times, ours against others'
    reference.py  the other side: the clocks of cron and pg_cron, minute by minute

reference.py shares no code with ordinaut.recurrence, or the proof would prove nothing.
"""
