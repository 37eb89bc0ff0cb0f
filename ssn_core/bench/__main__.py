"""``python -m ssn_core.bench``."""

import sys

from ssn_core.bench.measure import main

sys.exit(main())
