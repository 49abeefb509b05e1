"""Caches that travel, larder beside BuildKit in one run: written to Debian's docker-registry, to `larder registry` and to a
folder, and read into an empty store. Needs docker-registry, busybox-static, and buildkitd and buildctl on the PATH.

usage: bench/caches.py --larder PATH [--rounds N] [--only larder]

Every time is a whole command: `larder build` without a daemon, `buildctl build` with a buildkitd that runs already. The
build has 13 steps in 3 stages on 2,000 small files and 32 MB of real files. Medians; each round has other contents, so that
nothing that is written was packed or sent before. Prints one table."""

import argparse
import functools
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

from base import make_base

parser = argparse.ArgumentParser()
parser.add_argument("--larder", required=True)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--only", choices=("larder", "BuildKit"))
options = parser.parse_args()

WORK = tempfile.mkdtemp(prefix="larder-bench-", dir=os.environ.get("BENCH_DIR"))
LAYOUT = os.path.join(WORK, "layout")
CONTEXT = os.path.join(WORK, "context")
DOCKERFILE = (
    "FROM base AS deps\nWORKDIR /d\nCOPY src/d0 d0\nRUN cat d0/* | wc -c > n\n"
    "FROM base AS build\nWORKDIR /w\nCOPY src src\nCOPY data data\nCOPY --from=deps /d/n n\n"
    "RUN cat src/*/* | wc -c > all\nRUN tr a-y b-z < data > moved\n"
    "FROM base\nWORKDIR /app\nCOPY --from=build /w/all all\nCOPY --from=build /w/moved moved\nRUN cat all > last\n"
)
# How many times faster than BuildKit larder is to be, by row.
WANTED = {
    "written, mode=max": 3,
    "again, nothing new": 10,
    "built and written": None,
    "read, empty store, no output": 10,
    "read, empty store, OCI tar": 3,
}


def sh(*command, **more):
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def prepare():
    base = os.path.join(WORK, "base")
    make_base(base)
    env = dict(os.environ, LARDER_ROOT=os.path.join(WORK, "first"))
    sh(options.larder, "image", "import", "base", base + ".tar", env=env)
    sh(options.larder, "image", "save", "base", "-o", LAYOUT + ".tar", env=env)
    os.makedirs(LAYOUT)
    sh("tar", "-C", LAYOUT, "-xf", LAYOUT + ".tar")
    for i in range(2000):
        write(os.path.join(CONTEXT, "src", f"d{i % 40}", f"f{i}.txt"), f"file {i}\n" * 20)
    write(os.path.join(CONTEXT, "Dockerfile"), DOCKERFILE)
    command = ["tar", "-C", "/usr", "-c", "lib"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tar:
        data = tar.stdout.read(32 << 20)
        tar.kill()
    return data


def other_contents(data, seed):
    """The same bytes with a mark in front: no layer of it is known anywhere."""
    write(os.path.join(CONTEXT, "data"), f"{seed} {time.time()}\n".encode() + data)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Process:
    def __init__(self, command, ready):
        self.log = open(os.path.join(WORK, "log"), "a")
        self.child = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        while not ready():
            if self.child.poll() is not None:
                raise SystemExit(f"{command} ended: {open(os.path.join(WORK, 'log')).read()}")
            time.sleep(0.02)

    def close(self):
        self.child.terminate()
        self.child.wait()
        self.log.close()


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    except OSError:
        return False


def registries():
    port = free_port()
    config = os.path.join(WORK, "config.yml")
    write(config, f"version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {WORK}/docker\n"
                  f"http:\n  addr: 127.0.0.1:{port}\n")
    docker = Process(["docker-registry", "serve", config], lambda: listens(port))
    own = free_port()
    command = [options.larder, "registry", "--addr", f"127.0.0.1:{own}", "--root", os.path.join(WORK, "registry")]
    larder = Process(command, lambda: listens(own))
    return {"docker-registry": (docker, port), "larder registry": (larder, own)}


class Larder:
    name = "larder"

    def __init__(self):
        self.empty()

    def empty(self):
        """From now on in an empty store."""
        self.env = dict(os.environ, LARDER_ROOT=tempfile.mkdtemp(prefix="store-", dir=WORK))

    def build(self, to=None, source=None, output=None):
        command = [options.larder, "build", "--progress", "quiet", "--build-context", "base=oci-layout://" + LAYOUT]
        if to:
            command += ["--cache-to", to + ",mode=max,ignore-error=false"]
        if source:
            command += ["--cache-from", source]
        sh(*command, "-o", output or "type=cacheonly", CONTEXT, env=self.env)

    def close(self):
        pass


class BuildKit:
    name = "BuildKit"

    def __init__(self):
        self.daemon = None
        self.empty()

    def empty(self):
        if self.daemon:
            self.daemon.close()
        root = tempfile.mkdtemp(prefix="bk-", dir=WORK)
        path = os.path.join(root, "sock")
        self.socket = "unix://" + path
        command = ["buildkitd", "--addr", self.socket, "--root", root, "--oci-worker-no-process-sandbox=false"]
        self.daemon = Process(command, lambda: os.path.exists(path))
        time.sleep(1)

    def build(self, to=None, source=None, output=None):
        index = open(os.path.join(LAYOUT, "index.json")).read()
        digest = index.split('"digest":"', 1)[1].split('"', 1)[0]
        command = ["buildctl", "--addr", self.socket, "build", "--frontend", "dockerfile.v0", "--progress", "plain"]
        command += ["--local", "context=" + CONTEXT, "--local", "dockerfile=" + CONTEXT]
        command += ["--oci-layout", "base=" + LAYOUT, "--opt", "context:base=oci-layout://base@" + digest]
        if to:
            command += ["--export-cache", to + ",mode=max"]
        if source:
            command += ["--import-cache", source]
        if output:
            command += ["--output", output]
        sh(*command)

    def close(self):
        self.daemon.close()


def timed(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def measure(tool, data, place, new_place):
    """Times of one place. `new_place` gives the attributes of a cache that does not exist yet, to write and to read."""
    rows = {name: [] for name in WANTED}
    for round in range(options.rounds):
        tool.empty()
        other_contents(data, f"{tool.name} {place} {round}")
        to, source = new_place(round)
        tool.build()
        rows["written, mode=max"].append(timed(lambda: tool.build(to=to)))
        for _ in range(2):
            rows["again, nothing new"].append(timed(lambda: tool.build(to=to)))
        tool.empty()
        rows["read, empty store, no output"].append(timed(lambda: tool.build(source=source)))
        tool.empty()
        tar = os.path.join(WORK, "out.tar")
        rows["read, empty store, OCI tar"].append(timed(lambda: tool.build(source=source, output=f"type=oci,dest={tar}")))
        tool.empty()
        to, _ = new_place(f"{round}-at-once")
        other_contents(data, f"{tool.name} {place} {round} at once")
        rows["built and written"].append(timed(lambda: tool.build(to=to)))
        for old in os.listdir(WORK):
            if old.startswith(("store-", "bk-")) and old not in str(getattr(tool, "env", getattr(tool, "socket", ""))):
                shutil.rmtree(os.path.join(WORK, old), ignore_errors=True)
    return {name: statistics.median(times) for name, times in rows.items()}


def in_registry(port, tool, round):
    reference = f"127.0.0.1:{port}/bench-{tool.lower()}/cache:r{round}"
    return f"type=registry,ref={reference}", f"type=registry,ref={reference}"


def in_folder(tool, round):
    folder = os.path.join(WORK, f"folder-{tool}-{round}")
    return f"type=local,dest={folder}", f"type=local,src={folder}"


def main():
    opened, columns = {}, {}
    try:
        data = prepare()
        opened = registries()
        for kind in (Larder, BuildKit):
            if options.only in (None, kind.name) and (kind is Larder or shutil.which("buildkitd")):
                columns[kind.name] = column = {}
                tool = kind()
                try:
                    places = {name: functools.partial(in_registry, port, tool.name) for name, (_, port) in opened.items()}
                    places["folder"] = functools.partial(in_folder, tool.name)
                    for place, new_place in places.items():
                        column.update({(place, row): v for row, v in measure(tool, data, place, new_place).items()})
                finally:
                    tool.close()
    finally:
        for process, _ in opened.values():
            process.close()
        shutil.rmtree(WORK, ignore_errors=True)
    print(f"{'cache (seconds)':48}" + "".join(f"{name:>10}" for name in columns) + "  BuildKit/larder  wanted")
    for place, row in next(iter(columns.values())):
        values = [column[place, row] for column in columns.values()]
        ratio = f"{values[1] / values[0]:15.2f}x" if len(values) > 1 else ""
        wanted = f"{WANTED[row]:7}x" if ratio and WANTED[row] else ""
        print(f"{place + ': ' + row:48}" + "".join(f"{value:10.3f}" for value in values) + ratio + wanted)


main()
