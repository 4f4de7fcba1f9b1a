"""`python -m gesso`: the command line, for where no script was installed."""

import sys

from gesso.cli import main

sys.exit(main())
