"""The workloads of the table. Each makes its context once, and yields rows: a name, and what gives its number for a tool in
seconds, MiB or MB when it is called, before the next row is asked for."""

import os
import statistics
import subprocess
import time

from tools import NotTaken


class Bench:
    """Where contexts lie, and how often something is measured."""

    def __init__(self, work, rounds):
        self.work, self.rounds = work, rounds

    def median(self, tool, work, before=lambda i: None, most=None):
        times = []
        for i in range(min(self.rounds if tool.patient else 1, most or self.rounds)):
            before(i)
            times.append(timed(work))
        return statistics.median(times)

    def context(self, name, make):
        """The context of this name, made when it is asked for the first time."""
        context = os.path.join(self.work, name)
        if not os.path.exists(context):
            os.makedirs(context)
            make(context)
        return context


def timed(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def dockerfile(text):
    return lambda context: write(os.path.join(context, "Dockerfile"), text)


def stages_and_files(context):
    """12 steps, 3 stages, 2,000 files."""
    for i in range(2000):
        write(os.path.join(context, "src", f"d{i % 40}", f"f{i}.txt"), f"file {i}\n" * 20)
    dockerfile(
        "FROM base AS deps\nWORKDIR /d\nCOPY src/d0 d0\nRUN cat d0/* | wc -c > n\n"
        "FROM base AS build\nWORKDIR /w\nCOPY src src\nCOPY --from=deps /d/n n\nRUN cat src/*/* | wc -c > all\nRUN cat all n > both\n"
        "FROM base\nWORKDIR /app\nCOPY --from=build /w/both both\nRUN cat both > last\nRUN echo done\n"
    )(context)


def stages(bench, tool):
    context = bench.context("stages", stages_and_files)
    build = lambda: tool.build(context)
    build()
    build()
    yield "fully cached: 12 steps, 3 stages, 2,000 files", lambda: bench.median(tool, build)
    yield "  its peak memory, MiB", lambda: tool.peak(build)

    def change(i):
        write(os.path.join(context, "src/d1/f1.txt"), f"changed {tool.name} {i} {time.time()}")

    yield "one source file changed", lambda: bench.median(tool, build, before=change)
    yield "the same with --no-cache", lambda: bench.median(tool, lambda: tool.no_cache(context))


def trues(bench, tool):
    context = bench.context("trues", dockerfile("FROM base\n" + "RUN true\n" * 20))
    yield "20 x RUN true", lambda: bench.median(tool, lambda: tool.no_cache(context))


def sleeps(bench, tool):
    side = "".join(f"FROM base AS s{i}\nRUN sleep 1; echo {i} > /{i}\n" for i in range(8))
    joined = "FROM base\n" + "".join(f"COPY --from=s{i} /{i} /{i}\n" for i in range(8))
    context = bench.context("sleeps", dockerfile(side + joined))
    yield "8 stages of sleep 1 side by side", lambda: bench.median(tool, lambda: tool.no_cache(context), most=2)


def many_files(context):
    """20,000 files, 500 MB, none of which anybody has seen before."""
    block = os.urandom(25_000)
    for i in range(20_000):
        write(os.path.join(context, "tree", f"d{i % 200}", f"f{i}"), i.to_bytes(8, "little") + block)
    dockerfile("FROM base\nCOPY tree /tree\n")(context)
    os.sync()  # nobody writes the other's files to disk


def files(bench, tool):
    context = bench.context("files", many_files)
    build = lambda: tool.build(context)
    memory = []

    def peak():
        try:
            memory.append(tool.peak(build))
        except NotTaken:
            pass

    def anew(i):
        many_files(context)

    yield "20,000 files, 500 MB: first COPY", lambda: bench.median(tool, peak, before=anew, most=3)
    yield "  its peak memory, MiB", lambda: statistics.median(memory) if memory else tool.peak(build)
    build()
    yield "the same, nothing changed", lambda: bench.median(tool, build)

    def touch(i):
        write(os.path.join(context, "tree/d1/f1"), f"{tool.name} {i} {time.time()}" * 1000)

    yield "the same, one file changed", lambda: bench.median(tool, build, before=touch)


def large_file(context):
    """300 MB of programs and libraries."""
    source = subprocess.check_output(["tar", "-C", "/usr", "-c", "lib"], stderr=subprocess.DEVNULL)
    write(os.path.join(context, "data"), source[: 300 << 20])
    dockerfile("FROM scratch\nCOPY data /data\n")(context)


def archives(bench, tool):
    context = bench.context("layer", large_file)

    def anew(i):
        """A file that nobody has compressed yet."""
        with open(os.path.join(context, "data"), "r+b") as file:
            file.write(os.urandom(16))
        tool.build(context)
        os.sync()

    for compression in ("gzip", "zstd", "uncompressed"):
        out = os.path.join(bench.work, f"{tool.name}-{compression}.tar")
        archive = lambda: tool.archive(context, compression, out)
        yield f"300 MB layer to an OCI tar: {compression}", lambda: bench.median(tool, archive, before=anew, most=3)
        if os.path.exists(out):
            yield f"  its size, MB: {compression}", lambda: os.path.getsize(out) / 1e6
            os.remove(out)


# By the name that `--rows` takes.
WORKLOADS = {"stages": stages, "trues": trues, "sleeps": sleeps, "files": files, "archives": archives}
