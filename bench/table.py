"""Times larder beside its peers, and prints a table, row by row as it is measured: medians of several rounds, one tool
after the other. Run it on an idle machine; `bench/run` is the command. "One source file changed" includes the commands'
own time. Peak memory is of the process that works: larder's own (ru_maxrss), the daemon's (VmHWM, set back before). `-` is
a row that a tool takes no part in."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time

import records
from base import make_base
from tools import PEERS, Failed, Larder, NotTaken, missing
from workloads import WORKLOADS, Bench

LABEL = 50


def arguments():
    names = [*WORKLOADS, "records"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--larder", required=True, help="the binary")
    parser.add_argument("--store", required=True, help="the example `measure` of the crate store")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default=",".join(names), help="which workloads: " + ", ".join(names))
    parser.add_argument("--tools", default="larder,BuildKit,buildah", help="who takes part, as far as it is installed")
    parser.add_argument("--limit", type=float, default=120, help="seconds that one command may take")
    options = parser.parse_args()
    options.rows = options.rows.split(",")
    if wrong := [row for row in options.rows if row not in names]:
        parser.error(f"no such rows: {', '.join(wrong)}")
    return options


def cell(measure):
    """A number, or a word that says why there is none."""
    try:
        return measure()
    except NotTaken:
        return "-"
    except Failed as failed:
        return str(failed)


def workload(bench, tools, work):
    """One row after the other; a tool whose context can't be built has no more rows."""
    columns = {}
    for tool in tools:
        rows = columns[tool.name] = {}
        try:
            for name, measure in work(bench, tool):
                rows[name] = cell(measure)
        except (Failed, NotTaken) as failed:
            print(f"  {tool.name} ends here: {failed}", file=sys.stderr)
    for name in dict.fromkeys(name for rows in columns.values() for name in rows):
        line([name, *(columns[tool.name].get(name, "-") for tool in tools)], ratio(name, columns))


def ratio(name, columns):
    ours = columns.get("larder", {}).get(name)
    return "".join(
        f"{theirs / ours:11.2f}x" if isinstance(theirs := columns[peer.name].get(name), float) and ours else " " * 12
        for peer in PEERS
        if peer.name in columns
    )


def line(cells, more=""):
    shown = (format(c, ".3f") if isinstance(c, float) else str(c) for c in cells[1:])
    print(f"{cells[0]:{LABEL}}" + "".join(f"{text:>12}" for text in shown) + more, flush=True)


def begin(options, work):
    base, layout = os.path.join(work, "base"), os.path.join(work, "layout")
    make_base(base)
    larder = Larder(work, options.limit, options.larder, base)
    larder.save_layout(layout)
    tools = [larder]
    for peer in PEERS:
        if peer.name not in options.tools.split(","):
            continue
        if names := missing(peer):
            print(f"without {peer.name}: not on the PATH: {', '.join(names)}")
            continue
        try:
            tools.append(peer(work, options.limit, base, layout))
        except (Failed, OSError, subprocess.SubprocessError) as failed:
            print(f"without {peer.name}: it does not start: {failed}")
    return base, tools


def main():
    options = arguments()
    begun = time.time()
    work = tempfile.mkdtemp(prefix="larder-bench-", dir=os.environ.get("BENCH_DIR"))
    tools = []
    try:
        base, tools = begin(options, work)
        bench = Bench(work, options.rounds)
        now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        print(f"{now} UTC, Linux {platform.release()}, {os.cpu_count()} cores, {options.rounds} rounds")
        names = [tool.name for tool in tools]
        line(["workload (seconds)", *names], "".join(f"{name + '/l.':>12}" for name in names[1:]))
        for row in options.rows:
            if row in WORKLOADS:
                workload(bench, tools, WORKLOADS[row])
        if "records" in options.rows:
            for name, measure in records.rows(bench, options, base):
                line([name, cell(measure)])
    finally:
        for tool in tools:
            tool.close()
        shutil.rmtree(work, ignore_errors=True)
    print(f"took {time.time() - begun:.0f} s")


main()
