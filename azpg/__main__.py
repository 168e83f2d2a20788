"""`python -m azpg` runs the command `azpg`."""

import sys

from azpg._cli.main import main

sys.exit(main())
