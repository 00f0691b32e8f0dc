"""`python -m indexer` is `erc8004-indexer`."""

from indexer.cli import main

if __name__ == "__main__":
    main()
