"""`python -m solver` is the `solver` command."""

from solver.cli import main

if __name__ == "__main__":  # a spawned worker imports this module again: it must not start a second run
    main()
