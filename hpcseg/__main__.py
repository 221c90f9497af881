"""`python -m hpcseg`: the same as the console script."""

from hpcseg.cli.app import main

main()
