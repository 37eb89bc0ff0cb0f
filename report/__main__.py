"""``python -m report [--profile demo]``: rebuild both PDFs from results and figures, running nothing."""

import argparse
import sys

from report.build import build_report
from ssn_core.errors import InputError
from ssn_core.runs.profiles import project_root


def main() -> int:
    """A user's mistake prints one line and returns 2."""
    parser = argparse.ArgumentParser(prog="python -m report", description=__doc__)
    parser.add_argument("--profile", default="cpu", help="whose results: cpu (with those of full, where there are any)")
    profile = parser.parse_args().profile
    try:
        for path in build_report(project_root(), profile):
            print(f"report: {path}")
    except InputError as error:
        print(f"python -m report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
