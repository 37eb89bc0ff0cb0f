"""The study on Kaggle: make the runs of a profile for so many minutes, then draw its notebooks. See kaggle/README.md.

Everything that is attached is found by what it holds: the checkout, the weights, the data sets, and the output of an
earlier version of this kernel, whose finished runs are kept and whose unfinished one resumes.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROFILE = os.environ.get("SSN_PROFILE", "full")
MINUTES = float(os.environ.get("SSN_MINUTES", 660))  # a session ends after 12 hours; what follows takes minutes
INPUT = Path(os.environ.get("SSN_KAGGLE_INPUT", "/kaggle/input"))
WORKING = Path(os.environ.get("SSN_KAGGLE_WORKING", "/kaggle/working"))


def main() -> int:
    """The exit status: 0, or 1 with a line that says what to attach."""
    checkout = WORKING / "supersimplenet"
    found = sorted(path.parent for path in INPUT.rglob("profiles") if (path.parent / "ssn_core").is_dir())
    if not found:
        print(f"no checkout of the project below {INPUT}: attach it as a data set (see kaggle/README.md)")
        return 1
    # earlier outputs are checkouts with more runs, under this name; the code of the one attached goes over theirs
    for source in sorted(found, key=lambda path: path.name != checkout.name):
        shutil.copytree(source, checkout, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git", ".venv", "build"))
    sys.path.insert(0, str(checkout))
    os.chdir(checkout)
    weights = sorted(path.parent for path in INPUT.rglob("*resnet*.pth"))
    os.environ.setdefault("SSN_WEIGHTS_DIR", str(weights[0] if weights else checkout))

    from ssn_core.errors import InputError
    from ssn_core.runs.plan import Plan

    try:
        plan = Plan.of(PROFILE)
        print(*plan.remarks, sep="\n")
        finished = plan.work(MINUTES)
    except InputError as error:
        print(error)
        return 1
    if not finished:
        print(
            f"{MINUTES:g} minutes are over: attach this kernel's output to its next version, and it goes on from here"
        )
        return 0
    drawn = checkout / "build" / "kaggle"
    drawn.mkdir(parents=True, exist_ok=True)
    for notebook in sorted((checkout / "notebooks").glob("[0-9]*.ipynb")):
        command = [
            sys.executable,
            "-m",
            "papermill",
            str(notebook),
            str(drawn / notebook.name),
            "-p",
            "profile",
            PROFILE,
        ]
        subprocess.run(command, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
