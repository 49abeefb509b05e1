"""`larder daemon` beside buildkitd under one and the same docker-buildx, round by round side by side. Needs docker-buildx
(ci/buildx brings one), busybox-static, and buildkitd on the PATH. Run it as root on an idle machine: bench/daemon.py
--larder PATH [--rounds N]. Prints one table.

Times are what a user waits, buildx included; the rows below each say how much of it is the daemon's own work (processor
time of its process) and the client's, which no daemon can change. Each daemon has a fresh file system of its own where
loop devices allow it: ext4 is slow to make files for five minutes after many were removed, and whoever comes first after
an earlier run would pay for it. Memory is of the daemon's process; its own part is what it holds beside its program's
code (RssAnon)."""

import argparse
import glob
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time

from base import make_base

parser = argparse.ArgumentParser()
parser.add_argument("--larder", required=True)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--at-once", type=int, default=50, help="builds of the last row")
parser.add_argument("--buildx", default=(glob.glob("/usr/local/lib/larder-peers/*sid/docker-buildx") or ["docker-buildx"])[0])
options = parser.parse_args()
WORK = tempfile.mkdtemp(prefix="larder-bench-", dir=os.environ.get("BENCH_DIR"))


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def contexts():
    """A cached build of 12 steps on 2,000 files; 20,000 files of 500 MB; a bake of 12 targets. Bases are archives of the
    contexts."""
    base, cached, large, bake = (os.path.join(WORK, name) for name in ("base", "cached", "large", "bake"))
    make_base(base)
    for i in range(2000):
        write(os.path.join(cached, "src", f"d{i % 40}", f"f{i}.txt"), f"file {i}\n" * 20)
    shutil.copy(base + ".tar", os.path.join(cached, "base.tar"))
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
    for i in range(12):
        write(os.path.join(bake, "src", f"f{i}"), f"{i}\n")
    stages = "".join(f"FROM base AS t{i}\nCOPY src/f{i} f\nRUN cat f > g\n" for i in range(12))
    shutil.copy(os.path.join(cached, "base.tar"), bake)
    write(os.path.join(bake, "Dockerfile"), "FROM scratch AS base\nADD base.tar /\n" + stages)
    targets = "".join(f'target "t{i}" {{ target = "t{i}" }}\n' for i in range(12))
    names = ", ".join(f'"t{i}"' for i in range(12))
    write(os.path.join(bake, "docker-bake.hcl"), f'group "default" {{ targets = [{names}] }}\n{targets}')
    return cached, large, bake


class Daemon:
    def __init__(self, name, command, folder):
        self.name, self.folder = name, os.path.join(WORK, folder)
        os.makedirs(self.folder)
        image = self.folder + ".ext4"
        subprocess.run(["truncate", "-s", "12G", image], check=True)
        # Its tables are written now, not while something is measured.
        make = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", image]
        mount = ["mount", "-o", "loop", image, self.folder]
        done = [subprocess.run(step, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for step in (make, mount)]
        self.mounted = not any(step.returncode for step in done)
        socket = os.path.join(WORK, name + ".sock")
        begun = time.perf_counter()
        self.log = open(os.path.join(WORK, name + ".log"), "w")
        self.process = subprocess.Popen(
            [*command, "--addr", "unix://" + socket], stdout=self.log, stderr=self.log,
            env=dict(os.environ, LARDER_ROOT=self.folder),
        )
        while not os.path.exists(socket):
            if self.process.poll() is not None:
                raise SystemExit(f"{name} did not start: {open(self.log.name).read()}")
            time.sleep(0.002)
        self.ready = time.perf_counter() - begun
        time.sleep(1)
        self.env = dict(os.environ, BUILDX_CONFIG=os.path.join(WORK, name + "-buildx"))
        create = ["create", "--name", "b", "--driver", "remote", "--use", "unix://" + socket]
        subprocess.run([options.buildx, *create], check=True, env=self.env, stdout=subprocess.DEVNULL)

    def start(self, context, verb):
        command = [options.buildx, verb, "--progress", "quiet", "--provenance=false"]
        if verb == "build":
            command.append(context)
        return subprocess.Popen(
            command, env=self.env, cwd=context, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def run(self, context, verb="build"):
        """Seconds of one command, of the daemon's processor and of the client's."""
        os.sync()  # nobody pays for what another one wrote
        daemon, client, begun = self.worked(), children(), time.perf_counter()
        done = self.start(context, verb)
        _, said = done.communicate()
        took = time.perf_counter() - begun
        if done.returncode:
            raise SystemExit(f"{self.name}: {said}")
        return took, self.worked() - daemon, children() - client

    def at_once(self, contexts):
        """Highest memory while all of them are built at the same time."""
        self.forget_peak()
        for done in [self.start(context, "build") for context in contexts]:
            _, said = done.communicate()
            if done.returncode:
                raise SystemExit(f"{self.name}: {said}")
        return self.memory("VmHWM")

    def worked(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, field):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))

    def forget_peak(self):
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as peak:
            peak.write("5")

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        if self.mounted:
            # What a daemon mounts in its folder goes with it.
            subprocess.run(["umount", "--recursive", self.folder], check=True)


def children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Table:
    def __init__(self, daemons):
        self.daemons, self.rows = daemons, []

    def row(self, name, values):
        self.rows.append((name, list(values)))

    def timed(self, name, work, rounds):
        """Medians of what `work` gives for each daemon, one after the other in each round."""
        runs = [[work(daemon) for daemon in self.daemons] for _ in range(rounds)]
        for column, label in enumerate((name, "  the daemon's processor (s)", "  the client's processor (s)")):
            each = range(len(self.daemons))
            self.row(label, (statistics.median(run[place][column] for run in runs) for place in each))

    def print(self):
        print(f"{'workload':46}" + "".join(f"{daemon.name:>12}" for daemon in self.daemons))
        for name, values in self.rows:
            ratio = f"{values[1] / values[0]:10.2f}x" if len(values) > 1 and values[0] else ""
            print(f"{name:46}" + "".join(f"{value:12.3f}" for value in values) + ratio)


def measure(daemons, cached, large, bake):
    table, rounds = Table(daemons), options.rounds
    table.row("socket open after start, empty store (s)", (daemon.ready for daemon in daemons))
    for daemon in daemons:
        for _ in range(2):
            daemon.run(cached)
    table.timed("fully cached (s)", lambda daemon: daemon.run(cached), rounds)
    time.sleep(1)
    table.row("  memory after it, VmRSS (MiB)", (daemon.memory("VmRSS") for daemon in daemons))
    table.row("  its own part, RssAnon (MiB)", (daemon.memory("RssAnon") for daemon in daemons))
    for daemon in daemons:
        for _ in range(2):
            daemon.run(bake, "bake")
    table.timed("bake of 12 targets, fully cached (s)", lambda daemon: daemon.run(bake, "bake"), rounds)
    for daemon in daemons:
        daemon.forget_peak()
    table.timed("20,000 files, 500 MB: first transfer (s)", lambda daemon: daemon.run(large), 1)
    table.timed("  the next one, nothing changed (s)", lambda daemon: daemon.run(large), 1)
    table.timed("  nothing changed (s)", lambda daemon: daemon.run(large), rounds)

    def one_changed(daemon):
        write(os.path.join(large, "tree/d1/f1"), f"{daemon.name} {time.time()}" * 1000)
        return daemon.run(large)

    table.timed("  one file changed (s)", one_changed, rounds)
    table.row("  highest memory, VmHWM (MiB)", (daemon.memory("VmHWM") for daemon in daemons))
    many = []
    for number in range(options.at_once):
        many.append(os.path.join(WORK, f"many{number}"))
        write(os.path.join(many[-1], "src/f"), f"{number}\n")
        shutil.copy(os.path.join(cached, "base.tar"), many[-1])
        write(os.path.join(many[-1], "Dockerfile"), "FROM scratch\nADD base.tar /\nCOPY src src\nRUN cat src/f > all\n")
    name = f"{options.at_once} builds at once: highest memory (MiB)"
    table.row(name, (daemon.at_once(many) for daemon in daemons))
    return table


def main():
    daemons = []
    try:
        places = contexts()
        daemons.append(Daemon("larder", [options.larder, "daemon"], "store"))
        if shutil.which("buildkitd"):
            daemons.append(Daemon("buildkitd", ["buildkitd", "--root", os.path.join(WORK, "bk")], "bk"))
        table = measure(daemons, *places)
    finally:
        for daemon in daemons:
            daemon.close()
        shutil.rmtree(WORK, ignore_errors=True)
    table.print()


main()
