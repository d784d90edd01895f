"""A parallel map that keeps the order and never runs ahead of its consumer."""

import multiprocessing
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from itertools import islice


def ordered_map(function, items, workers, chunk=32, initializer=None, initargs=()):
    """Yield `function(item)` for the items in their order, computed by `workers` processes.

    `function` is of a module and its results are plain data; each process calls `initializer(*initargs)` first. At
    most four chunks a worker are under way, so memory does not grow with the number of items (the feeding thread of
    `Pool.imap` reads its whole input). With one worker everything runs in this process. An exception of `function`
    comes out here.
    """
    if workers == 1:
        if initializer:
            initializer(*initargs)
        yield from map(function, items)
        return
    items = iter(items)
    # spawn: a forked child of a process with threads (progress bars, numerical libraries) may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer, initargs) as pool:
        pending = deque()
        try:
            while piece := list(islice(items, chunk)):
                pending.append(pool.submit(_apply, function, piece))
                if len(pending) >= 4 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _apply(function, piece):
    return [function(item) for item in piece]
