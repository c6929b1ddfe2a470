"""`python -m twoway` is the program `twoway`."""

import sys

from twoway.cli import main

sys.exit(main())
