"""`python -m lengthwise VERB ...`: the command line, for launchers that start modules."""

import sys

from lengthwise.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
