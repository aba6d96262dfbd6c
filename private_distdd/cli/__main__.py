"""`python -m private_distdd.cli`: the same as `private-distdd`."""

import sys

from private_distdd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
