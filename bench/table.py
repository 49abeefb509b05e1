"""Workloads, timed one tool after the other: medians of several rounds, but for the first COPY and the archives, which
are timed once. Run it on an idle machine. "One source file changed" includes the commands' own time. Peak memory is of
the process that works: larder's own (ru_maxrss), the daemon's (VmHWM, set back before). Prints one table; `-` is a
workload that a tool takes no part in."""

import argparse
import functools
import os
import shutil
import statistics
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("--larder", required=True)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--tools", default="larder,BuildKit,buildah", help="who takes part, as far as it is installed")
parser.add_argument("--fill", help="the example `fill` of the crate store: adds the rows on stores with many records")
options = parser.parse_args()

WORK = tempfile.mkdtemp(prefix="larder-bench-", dir=os.environ.get("BENCH_DIR"))
BASE = os.path.join(WORK, "base")
LAYOUT = os.path.join(WORK, "layout")


def sh(*command, **more):
    return subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)


def peak(command, env):
    """Runs a command; gives its highest memory in MiB."""
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return usage.ru_maxrss / 1024


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def make_base():
    for folder in ("bin", "etc", "tmp", "root", "proc", "sys", "dev"):
        os.makedirs(os.path.join(BASE, folder))
    shutil.copy("/bin/busybox", os.path.join(BASE, "bin/busybox"))
    for applet in subprocess.check_output(["/bin/busybox", "--list"], text=True).split():
        if applet != "busybox":
            os.symlink("busybox", os.path.join(BASE, "bin", applet))
    write(os.path.join(BASE, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")
    sh("tar", "-C", BASE, "-cf", BASE + ".tar", ".")


class Larder:
    name = "larder"
    rounds = options.rounds

    def __init__(self, root):
        self.env = dict(os.environ, LARDER_ROOT=root)
        self.run("image", "import", "base", BASE + ".tar")

    def save_layout(self):
        self.run("image", "save", "base", "-o", LAYOUT + ".tar")
        os.makedirs(LAYOUT)
        sh("tar", "-C", LAYOUT, "-xf", LAYOUT + ".tar")

    def run(self, *args):
        self.memory = peak([options.larder, *args], self.env)

    def peak(self, work):
        work()
        return self.memory

    def build(self, context, *flags, output=None):
        args = ["build", "--progress", "quiet", *flags]
        # As BuildKit without an output: the result stays in the cache, and no layer is packed.
        args += ["-o", output or "type=cacheonly"]
        self.run(*args, context)

    def no_cache(self, context):
        self.build(context, "--no-cache")

    def close(self):
        pass


class BuildKit:
    name = "BuildKit"
    rounds = options.rounds

    def __init__(self):
        self.socket = "unix://" + os.path.join(WORK, "bk.sock")
        root = os.path.join(WORK, "bk")
        command = ["buildkitd", "--addr", self.socket, "--root", root, "--oci-worker-no-process-sandbox=false"]
        self.log = open(os.path.join(WORK, "bk.log"), "w")
        self.daemon = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        for _ in range(200):
            if os.path.exists(os.path.join(WORK, "bk.sock")):
                break
            time.sleep(0.1)
        time.sleep(1)

    def build(self, context, *flags, output=None):
        index = open(os.path.join(LAYOUT, "index.json")).read()
        digest = index.split('"digest":"', 1)[1].split('"', 1)[0]
        command = ["buildctl", "--addr", self.socket, "build", "--frontend", "dockerfile.v0", "--progress", "plain"]
        command += ["--local", "context=" + context, "--local", "dockerfile=" + context]
        command += ["--oci-layout", "base=" + LAYOUT, "--opt", "context:base=oci-layout://base@" + digest, *flags]
        if output:
            command += ["--output", output]
        sh(*command)

    def no_cache(self, context):
        self.build(context, "--no-cache")

    def peak(self, work):
        with open(f"/proc/{self.daemon.pid}/clear_refs", "w") as file:
            file.write("5")
        work()
        with open(f"/proc/{self.daemon.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))

    def close(self):
        self.daemon.terminate()
        self.daemon.wait()
        self.log.close()


class Buildah:
    name = "buildah"
    rounds = 1  # it takes half a minute where others take one second

    def __init__(self):
        self.storage = ["buildah", "--root", os.path.join(WORK, "ba"), "--runroot", os.path.join(WORK, "ba-run")]
        sh(*self.storage, "pull", "oci-archive:" + LAYOUT + ".tar")
        images = subprocess.check_output([*self.storage, "images", "-q"], text=True)
        sh(*self.storage, "tag", images.split()[0], "localhost/base")

    def build(self, context, *flags, output=None):
        sh(*self.storage, "bud", "--isolation", "chroot", "--layers", "--pull-never", "-t", "built", *flags, context)

    def no_cache(self, context):
        self.build(context, "--no-cache")

    def peak(self, work):
        work()  # of how many processes, nobody knows: no figure

    def close(self):
        sh(*self.storage, "rm", "--all")
        sh(*self.storage, "rmi", "--all", "--force")


def stages_and_files():
    """12 steps, 3 stages, 2,000 files in the context."""
    context = os.path.join(WORK, "stages")
    for i in range(2000):
        write(os.path.join(context, "src", f"d{i % 40}", f"f{i}.txt"), f"file {i}\n" * 20)
    write(
        os.path.join(context, "Dockerfile"),
        "FROM base AS deps\nWORKDIR /d\nCOPY src/d0 d0\nRUN cat d0/* | wc -c > n\n"
        "FROM base AS build\nWORKDIR /w\nCOPY src src\nCOPY --from=deps /d/n n\nRUN cat src/*/* | wc -c > all\nRUN cat all n > both\n"
        "FROM base\nWORKDIR /app\nCOPY --from=build /w/both both\nRUN cat both > last\nRUN echo done\n",
    )
    return context


def many_files():
    """20,000 files, 500 MB."""
    context = os.path.join(WORK, "files")
    block = os.urandom(25_000)
    for i in range(20_000):
        path = os.path.join(context, "tree", f"d{i % 200}", f"f{i}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(i.to_bytes(8, "little") + block)
    write(os.path.join(context, "Dockerfile"), "FROM base\nCOPY tree /tree\n")
    return context


def small(name, dockerfile):
    context = os.path.join(WORK, name)
    write(os.path.join(context, "Dockerfile"), dockerfile)
    return context


def timed(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def median_of(most, work, rounds=None, before=lambda i: None):
    times = []
    for i in range(min(most, rounds or most)):
        before(i)
        times.append(timed(work))
    return statistics.median(times)


def measure(tool):
    rows = {}
    median = functools.partial(median_of, tool.rounds)
    context = stages_and_files()
    tool.build(context)
    tool.build(context)
    rows["fully cached: 12 steps, 3 stages, 2,000 files"] = median(lambda: tool.build(context))
    rows["  peak memory of that, MiB"] = tool.peak(lambda: tool.build(context))

    def change(i):
        write(os.path.join(context, "src/d1/f1.txt"), f"changed {tool.name} {i} {time.time()}")

    rows["one source file changed"] = median(lambda: tool.build(context), before=change)
    rows["the same with --no-cache"] = median(lambda: tool.no_cache(context))
    trues = small("trues", "FROM base\n" + "RUN true\n" * 20)
    rows["20 x RUN true"] = median(lambda: tool.no_cache(trues))
    sleeps = "".join(f"FROM base AS s{i}\nRUN sleep 1; echo {i} > /{i}\n" for i in range(8))
    joined = "FROM base\n" + "".join(f"COPY --from=s{i} /{i} /{i}\n" for i in range(8))
    side = small("sleeps", sleeps + joined)
    rows["8 stages of sleep 1 side by side"] = median(lambda: tool.no_cache(side), rounds=2)
    files = many_files()
    first = {}
    memory = tool.peak(lambda: first.update(spent=timed(lambda: tool.build(files))))
    rows["20,000 files, 500 MB: first COPY"] = first["spent"]
    rows["  its peak memory, MiB"] = memory
    tool.build(files)
    rows["the same, nothing changed"] = median(lambda: tool.build(files))

    def touch(i):
        with open(os.path.join(files, "tree/d1/f1"), "wb") as file:
            file.write(f"{tool.name} {i} {time.time()}".encode() * 1000)

    rows["the same, one file changed"] = median(lambda: tool.build(files), rounds=3, before=touch)
    return rows


def layers(tool):
    rows = {}
    if tool.name == "buildah":
        return rows
    context = os.path.join(WORK, "layer")
    if not os.path.exists(context):
        os.makedirs(context)
        source = subprocess.check_output(["tar", "-C", "/usr", "-c", "lib"], stderr=subprocess.DEVNULL)[: 300 << 20]
        with open(os.path.join(context, "data"), "wb") as file:
            file.write(source)
        write(os.path.join(context, "Dockerfile"), "FROM scratch\nCOPY data /data\n")
    tool.build(context)
    for compression in ("gzip", "zstd", "uncompressed"):
        out = os.path.join(WORK, f"{tool.name}-{compression}.tar")
        output = f"type=oci,dest={out},compression={compression},force-compression=true"
        spent = timed(lambda: tool.build(context, output=output))
        rows[f"300 MB layer to an OCI tar: {compression}"] = spent
        rows[f"  its size in MB: {compression}"] = os.path.getsize(out) / 1e6
    return rows


def fill(what, count):
    root = os.path.join(WORK, f"{what}-{count}")
    sh(options.fill, root, what, str(count))
    return root


def ready(root):
    """Seconds from a daemon's start until its socket is there."""
    path = os.path.join(WORK, "ready.sock")
    begun = time.perf_counter()
    daemon = subprocess.Popen(
        [options.larder, "--root", root, "daemon", "--addr", "unix://" + path], stderr=subprocess.DEVNULL
    )
    while not os.path.exists(path):
        time.sleep(0.0005)
    spent = time.perf_counter() - begun
    daemon.terminate()
    daemon.wait()
    return spent


def many_records():
    """Larder alone: a store of 5,000 steps, and a cached build beside 1,000 and 1,000,000 records of others."""
    rows = {}
    root = fill("steps", 5000)
    larder = lambda *args: sh(options.larder, "--root", root, *args)
    median = functools.partial(median_of, options.rounds)
    larder("du")  # what is new is measured once
    rows["a store of 5,000 records: du"] = median(lambda: larder("du"))
    rows["  a daemon's start until its socket is there"] = statistics.median(ready(root) for _ in range(options.rounds))
    rows["  prune of all"] = timed(lambda: larder("prune", "--all", "--force"))
    context = stages_and_files()
    for count in (1000, 1_000_000):
        tool = Larder(fill("records", count))
        tool.build(context)
        tool.build(context)
        rows[f"fully cached, beside {count:,} records"] = median(lambda: tool.build(context))
    return rows


def main():
    make_base()
    tools = [Larder(os.path.join(WORK, "store"))]
    tools[0].save_layout()
    for peer, needs in ((BuildKit, ("buildkitd", "buildctl")), (Buildah, ("buildah",))):
        if not all(shutil.which(name) for name in needs):
            print(f"without {peer.name}: not on the PATH: {' or '.join(needs)}")
        elif peer.name in options.tools.split(","):
            tools.append(peer())
    columns = []
    try:
        for tool in tools:
            columns.append({**measure(tool), **layers(tool)})
        if options.fill:
            columns[0].update(many_records())
    finally:
        for tool in tools:
            tool.close()
        shutil.rmtree(WORK, ignore_errors=True)
    print(f"{'workload (seconds)':52}" + "".join(f"{tool.name:>12}" for tool in tools) + "   BuildKit/larder")
    for row in columns[0]:
        values = {tool.name: column.get(row) for tool, column in zip(tools, columns)}
        line = f"{row:52}" + "".join(f"{'-' if v is None else format(v, '.3f'):>12}" for v in values.values())
        peer = values.get("BuildKit")
        print(line + (f"{peer / values['larder']:17.2f}x" if peer else ""))


main()
