"""`larder daemon` beside buildkitd under one and the same docker-buildx client. Needs docker-buildx (ci/buildx brings one),
busybox-static, and buildkitd on the PATH. Usage: bench/daemon.py --larder PATH [--rounds N]. Prints one table."""

import argparse
import glob
import os
import shutil
import statistics
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("--larder", required=True)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--buildx", default=(glob.glob("/usr/local/lib/larder-peers/*sid/docker-buildx") or ["docker-buildx"])[0])
options = parser.parse_args()
WORK = tempfile.mkdtemp(prefix="larder-bench-", dir=os.environ.get("BENCH_DIR"))


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def contexts():
    """A cached build of 12 steps on 2,000 files, and 20,000 files of 500 MB. The base is an archive of the context."""
    base, cached, large = (os.path.join(WORK, name) for name in ("base", "cached", "large"))
    for folder in ("bin", "etc", "tmp", "root", "proc", "sys", "dev"):
        os.makedirs(os.path.join(base, folder))
    shutil.copy("/bin/busybox", os.path.join(base, "bin/busybox"))
    for name in subprocess.check_output(["/bin/busybox", "--list"], text=True).split():
        if name != "busybox":
            os.symlink("busybox", os.path.join(base, "bin", name))
    for i in range(2000):
        write(os.path.join(cached, "src", f"d{i % 40}", f"f{i}.txt"), f"file {i}\n" * 20)
    subprocess.run(["tar", "-C", base, "-cf", os.path.join(cached, "base.tar"), "."], check=True)
    write(
        os.path.join(cached, "Dockerfile"),
        "FROM scratch AS base\nADD base.tar /\n"
        "FROM base AS deps\nWORKDIR /d\nCOPY src/d0 d0\nRUN cat d0/* | wc -c > n\n"
        "FROM base AS build\nWORKDIR /w\nCOPY src src\nCOPY --from=deps /d/n n\nRUN cat src/*/* | wc -c > all\n"
        "FROM base\nWORKDIR /app\nCOPY --from=build /w/all all\nRUN cat all > last\nRUN echo done\n",
    )
    block = os.urandom(25_000)
    for i in range(20_000):
        write(os.path.join(large, "tree", f"d{i % 200}", f"f{i}"), i.to_bytes(8, "little") + block)
    write(os.path.join(large, "Dockerfile"), "FROM scratch\nCOPY tree /tree\n")
    return cached, large


class Daemon:
    def __init__(self, name, command):
        self.name = name
        socket = os.path.join(WORK, name + ".sock")
        begun = time.perf_counter()
        self.log = open(os.path.join(WORK, name + ".log"), "w")
        self.process = subprocess.Popen(
            [*command, "--addr", "unix://" + socket], stdout=self.log, stderr=self.log
        )
        while not os.path.exists(socket):
            time.sleep(0.002)
        self.ready = time.perf_counter() - begun
        time.sleep(1)
        self.env = dict(os.environ, BUILDX_CONFIG=os.path.join(WORK, name + "-buildx"))
        create = ["create", "--name", "b", "--driver", "remote", "--use", "unix://" + socket]
        subprocess.run([options.buildx, *create], check=True, env=self.env, stdout=subprocess.DEVNULL)

    def build(self, context):
        command = [options.buildx, "build", "--progress", "quiet", "--provenance=false", context]
        begun = time.perf_counter()
        done = subprocess.run(command, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{self.name}: {done.stderr}")
        return time.perf_counter() - begun

    def memory(self, field):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def measure(daemon, cached, large):
    rows = {"socket open after start, empty store (s)": daemon.ready}
    median = lambda work: statistics.median(work() for _ in range(options.rounds))
    daemon.build(cached)
    daemon.build(cached)
    rows["fully cached, client included (s)"] = median(lambda: daemon.build(cached))
    rows["  memory after it, VmRSS (MiB)"] = daemon.memory("VmRSS")
    rows["20,000 files, 500 MB: first transfer (s)"] = daemon.build(large)
    daemon.build(large)
    rows["  nothing changed (s)"] = median(lambda: daemon.build(large))

    def one_changed():
        write(os.path.join(large, "tree/d1/f1"), f"{daemon.name} {time.time()}" * 1000)
        return daemon.build(large)

    rows["  one file changed (s)"] = median(one_changed)
    rows["  highest memory, VmHWM (MiB)"] = daemon.memory("VmHWM")
    return rows


def main():
    daemons = []
    try:
        cached, large = contexts()
        daemons.append(Daemon("larder", [options.larder, "--root", os.path.join(WORK, "store"), "daemon"]))
        if shutil.which("buildkitd"):
            daemons.append(Daemon("buildkitd", ["buildkitd", "--root", os.path.join(WORK, "bk")]))
        columns = [measure(daemon, cached, large) for daemon in daemons]
    finally:
        for daemon in daemons:
            daemon.close()
        shutil.rmtree(WORK, ignore_errors=True)
    print(f"{'workload':46}" + "".join(f"{daemon.name:>12}" for daemon in daemons))
    for row in columns[0]:
        values = [column[row] for column in columns]
        ratio = f"{values[1] / values[0]:10.2f}x" if len(values) > 1 else ""
        print(f"{row:46}" + "".join(f"{value:12.3f}" for value in values) + ratio)


main()
