"""Progress of a run: a bar with the time left where somebody watches, else a line for each tenth of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tqdm.auto import tqdm

from ssn_core.runs.result import Log


@contextlib.contextmanager
def progress(what: str, total: int, done: int, log: Log) -> Iterator[Log]:
    """Yields what is called with a line after each step; ``done`` of the ``total`` were made before.

    The bar (a widget in Jupyter) shows each line; where stderr is no terminal there is none, and ``log`` gets a line
    for every tenth of the total.
    """
    with tqdm(desc=what, total=total, initial=done, leave=False, disable=None, dynamic_ncols=True) as bar:

        def advance(line: str) -> None:
            nonlocal done
            done += 1
            bar.set_postfix_str(line)
            bar.update()
            if bar.disable and 10 * done // total > 10 * (done - 1) // total:
                log(line)

        yield advance
