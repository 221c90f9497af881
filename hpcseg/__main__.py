"""`python -m hpcseg`: the same as the console script."""

from hpcseg.cli.app import main

if __name__ == "__main__":  # processes that pack slices import it again
    main()
