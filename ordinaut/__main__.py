"""`python -m ordinaut` is `ordinaut`."""

from ordinaut.cli import main

main()
