"""``python -m ssn_core.bench`` measures speed ratios in one run, prints them and writes <figures>/bench.csv."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ssn_core.bench.measure import FILE, measure
from ssn_core.errors import InputError
from ssn_core.runs.profiles import load_profile


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m ssn_core.bench", description=__doc__)
    parser.add_argument("--profile", default="cpu", help="what to measure, and where the table goes")
    parser.add_argument("--only", default="", metavar="TEXT", help="groups whose name holds this text")
    parser.add_argument("--peers", metavar="PYTHON", help="python of an environment that has anomalib")
    parser.add_argument("--device")
    options = parser.parse_args(arguments)
    try:
        profile = load_profile(options.profile)
        measure(profile, options.device, options.only, options.peers)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"table: {profile.figures / FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
