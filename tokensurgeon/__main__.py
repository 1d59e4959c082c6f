"""``python -m tokensurgeon``."""

from tokensurgeon.cli import main

if __name__ == "__main__":
    main()
