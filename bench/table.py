"""Workloads, timed one tool after the other: medians of several rounds, but for the first COPY and the archives, which
are timed once. Run it on an idle machine. "One source file changed" includes the commands' own time. Prints one table."""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("--larder", required=True)
parser.add_argument("--rounds", type=int, default=5)
options = parser.parse_args()

WORK = tempfile.mkdtemp(prefix="larder-bench-", dir=os.environ.get("BENCH_DIR"))
BASE = os.path.join(WORK, "base")
LAYOUT = os.path.join(WORK, "layout")


def sh(*command, **more):
    return subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)


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

    def __init__(self):
        self.env = dict(os.environ, LARDER_ROOT=os.path.join(WORK, "store"))
        self.run("image", "import", "base", BASE + ".tar")
        self.run("image", "save", "base", "-o", LAYOUT + ".tar")
        os.makedirs(LAYOUT)
        sh("tar", "-C", LAYOUT, "-xf", LAYOUT + ".tar")

    def run(self, *args):
        sh(options.larder, *args, env=self.env)

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

    def close(self):
        self.daemon.terminate()
        self.daemon.wait()
        self.log.close()


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


def median(work, rounds=None, before=lambda i: None):
    times = []
    for i in range(rounds or options.rounds):
        before(i)
        times.append(timed(work))
    return statistics.median(times)


def measure(tool):
    rows = {}
    context = stages_and_files()
    tool.build(context)
    tool.build(context)
    rows["fully cached: 12 steps, 3 stages, 2,000 files"] = median(lambda: tool.build(context))

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
    rows["20,000 files, 500 MB: first COPY"] = timed(lambda: tool.build(files))
    tool.build(files)
    rows["the same, nothing changed"] = median(lambda: tool.build(files))

    def touch(i):
        with open(os.path.join(files, "tree/d1/f1"), "wb") as file:
            file.write(f"{tool.name} {i} {time.time()}".encode() * 1000)

    rows["the same, one file changed"] = median(lambda: tool.build(files), rounds=2, before=touch)
    return rows


def layers(tool):
    rows = {}
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


def main():
    make_base()
    tools = [Larder()]
    if shutil.which("buildkitd") and shutil.which("buildctl"):
        tools.append(BuildKit())
    else:
        print("buildkitd and buildctl are not on the PATH: larder alone")
    columns = []
    try:
        for tool in tools:
            columns.append({**measure(tool), **layers(tool)})
    finally:
        for tool in tools:
            tool.close()
        shutil.rmtree(WORK, ignore_errors=True)
    heading = f"{'workload (seconds)':52}" + "".join(f"{tool.name:>12}" for tool in tools)
    print(heading + ("       ratio" if len(tools) > 1 else ""))
    for row in columns[0]:
        values = [column[row] for column in columns]
        line = f"{row:52}" + "".join(f"{value:12.3f}" for value in values)
        print(line + (f"{values[1] / values[0]:11.2f}x" if len(values) > 1 else ""))


main()
