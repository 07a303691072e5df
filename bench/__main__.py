"""`python -m bench` is `heatproof`."""

from bench.cli import main

if __name__ == "__main__":
    main()
