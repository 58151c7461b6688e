"""``python -m spliceproxy``: the same program as the ``spliceproxy`` command."""

import sys

from spliceproxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
