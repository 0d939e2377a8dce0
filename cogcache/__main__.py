"""``python -m cogcache``: the command line."""

from cogcache.cli import main

if __name__ == "__main__":
    main()
