"""``python -m ssn_core.bench`` is ``ssn bench``: the command line lies above this room, so it is run, not imported."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "bench")
    runpy.run_module("ssn_core", run_name="__main__")
