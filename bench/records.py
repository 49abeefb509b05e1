"""Larder alone: a store of 5,000 steps, and builds beside few and very many records of others."""

import contextlib
import os
import statistics
import subprocess
import time

from tools import Larder
from workloads import stages_and_files, timed


def store(options, *args):
    subprocess.run([options.store, *args], check=True, stdout=subprocess.DEVNULL)


def ready(options, work, root):
    """Seconds from a daemon's start until its socket is there; one that an earlier daemon left does not count."""
    path = os.path.join(work, "ready.sock")
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    begun = time.perf_counter()
    command = [options.larder, "--root", root, "daemon", "--addr", "unix://" + path]
    daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not os.path.exists(path):
        time.sleep(0.0005)
    spent = time.perf_counter() - begun
    daemon.terminate()
    daemon.wait()
    return spent


def rows(bench, options, base):
    """Names of rows, and what gives their numbers."""
    root = os.path.join(bench.work, "steps-5000")
    store(options, "fill", root, "steps", "5000")
    larder = lambda *args: subprocess.run(
        [options.larder, "--root", root, *args], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    larder("du")  # what is new is measured once
    repeated = lambda measure: statistics.median(measure() for _ in range(bench.rounds))
    yield "a store of 5,000 records: du", lambda: repeated(lambda: timed(lambda: larder("du")))
    yield "  a daemon's start until its socket is there", lambda: repeated(lambda: ready(options, bench.work, root))
    yield "  prune of all", lambda: timed(lambda: larder("prune", "--all", "--force"))
    context = bench.context("stages", stages_and_files)
    for count in (1000, 1_000_000):
        root = os.path.join(bench.work, f"records-{count}")
        store(options, "fill", root, "records", str(count))
        tool = Larder(bench.work, options.limit, options.larder, base, root)
        tool.build(context)
        tool.build(context)
        yield f"fully cached, beside {count:,} records", lambda: bench.median(tool, lambda: tool.build(context))
        tool.close()
        answer = subprocess.check_output([options.store, "ask", root], text=True)
        for name, seconds in (line.rsplit(" ", 1) for line in answer.splitlines()):
            yield f"  {name}", lambda: float(seconds)
