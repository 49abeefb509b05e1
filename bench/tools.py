"""Who takes part in the table: larder in its own process, a real BuildKit through buildctl, Debian's buildah. Each builds
a context, tells its peak memory, and writes an OCI archive. Every command has a time limit; one that fails or takes
longer raises `Failed`, and no more than that cell of the table is lost."""

import os
import select
import shutil
import subprocess
import time


class Failed(Exception):
    """A command that failed or took too long."""


class NotTaken(Exception):
    """The tool has no such thing."""


class Tool:
    """What all tools share: a folder of their own, a limit for each command, a log of what they said."""

    name = ""
    # A tool that takes half a minute where others take one second is not asked five times.
    patient = True

    def __init__(self, work, limit):
        self.work, self.limit = work, limit
        self.log = open(os.path.join(work, self.name + ".log"), "wb")

    def command(self, *command, env=None):
        """Runs it."""
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        if not wait(process, self.limit):
            raise Failed(f"> {self.limit:.0f} s")
        if process.returncode:
            raise Failed(f"failed ({process.returncode})")

    def no_cache(self, context):
        self.build(context, "--no-cache")

    def close(self):
        self.log.close()


def wait(process, seconds):
    """Waits for a child's end; kills one that is late, and says so."""
    descriptor = os.pidfd_open(process.pid)
    ended, _, _ = select.select([descriptor], [], [], seconds)
    os.close(descriptor)
    if not ended:
        process.kill()
    process.wait()
    return bool(ended)


# Runs a command and writes its highest memory, in KiB. The kernel counts for a child what its parent had when it was
# started: this program has little, and the benchmark much.
PEAK = """
import os, sys
out, *command = sys.argv[1:]
process = os.posix_spawnp(command[0], command, os.environ)
_, status, usage = os.wait4(process, 0)
open(out, "w").write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Larder(Tool):
    name = "larder"

    def __init__(self, work, limit, binary, base, root=None):
        super().__init__(work, limit)
        self.launch = [binary]
        self.env = dict(os.environ, LARDER_ROOT=root or os.path.join(work, "larder"))
        self.run("image", "import", "base", base + ".tar")

    def run(self, *args):
        self.command(*self.launch, *args, env=self.env)

    def save_layout(self, layout):
        self.run("image", "save", "base", "-o", layout + ".tar")
        os.makedirs(layout)
        subprocess.run(["tar", "-C", layout, "-xf", layout + ".tar"], check=True)

    def build(self, context, *flags, output="type=cacheonly"):
        # As BuildKit without an output: the result stays in the cache, and no layer is packed.
        self.run("build", "--progress", "quiet", *flags, "-o", output, context)

    def peak(self, work):
        launch, out = self.launch, os.path.join(self.work, "peak")
        self.launch = ["python3", "-I", "-S", "-c", PEAK, out, *launch]
        try:
            work()
        finally:
            self.launch = launch
        with open(out) as peak:
            return int(peak.read()) / 1024

    def archive(self, context, compression, out):
        self.build(context, output=f"type=oci,dest={out},compression={compression},force-compression=true")


class BuildKit(Tool):
    name = "BuildKit"
    needs = ("buildkitd", "buildctl")

    def __init__(self, work, limit, base, layout):
        super().__init__(work, limit)
        self.layout = layout
        socket = os.path.join(work, "bk.sock")
        self.address = "unix://" + socket
        command = ["buildkitd", "--addr", self.address, "--root", os.path.join(work, "bk")]
        command.append("--oci-worker-no-process-sandbox=false")
        self.daemon = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        for _ in range(300):
            if os.path.exists(socket):
                break
            time.sleep(0.1)
        time.sleep(1)

    def build(self, context, *flags, output=None):
        with open(os.path.join(self.layout, "index.json")) as index:
            digest = index.read().split('"digest":"', 1)[1].split('"', 1)[0]
        command = ["buildctl", "--addr", self.address, "build", "--frontend", "dockerfile.v0", "--progress", "plain"]
        command += ["--local", "context=" + context, "--local", "dockerfile=" + context]
        command += ["--oci-layout", "base=" + self.layout, "--opt", "context:base=oci-layout://base@" + digest, *flags]
        if output:
            command += ["--output", output]
        self.command(*command)

    def peak(self, work):
        """Of the daemon, which does the work."""
        with open(f"/proc/{self.daemon.pid}/clear_refs", "w") as file:
            file.write("5")
        work()
        with open(f"/proc/{self.daemon.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))

    def archive(self, context, compression, out):
        self.build(context, output=f"type=oci,dest={out},compression={compression},force-compression=true")

    def close(self):
        self.daemon.terminate()
        self.daemon.wait()
        super().close()


class Buildah(Tool):
    """As root with overlay, its fastest driver; steps in a chroot, as nothing else is sure to work in a machine like a
    container."""

    name = "buildah"
    needs = ("buildah",)
    patient = False

    def __init__(self, work, limit, base, layout):
        super().__init__(work, limit)
        self.storage = ["buildah", "--root", os.path.join(work, "ba"), "--runroot", os.path.join(work, "ba-run")]
        self.storage += ["--storage-driver", "overlay"]
        self.command(*self.storage, "pull", "oci-archive:" + layout + ".tar")
        images = subprocess.check_output([*self.storage, "images", "-q"], text=True)
        self.command(*self.storage, "tag", images.split()[0], "localhost/base")

    def build(self, context, *flags):
        flags = ["--isolation", "chroot", "--layers", "--pull-never", "-t", "built", *flags]
        self.command(*self.storage, "bud", *flags, context)

    def peak(self, work):
        work()
        raise NotTaken("of how many processes, nobody knows")

    def archive(self, context, compression, out):
        """The image is there: what is timed is its archive alone."""
        if compression == "uncompressed":
            raise NotTaken("it compresses what goes into an archive")
        self.command(*self.storage, "push", "--compression-format", compression, "localhost/built", "oci-archive:" + out)

    def close(self):
        for what in (("rm", "--all"), ("rmi", "--all", "--force")):
            subprocess.run([*self.storage, *what], stdout=self.log, stderr=self.log, timeout=self.limit)
        # An overlay that a killed build left mounted.
        subprocess.run(["umount", "-R", os.path.join(self.work, "ba", "overlay")], stderr=self.log)
        super().close()


PEERS = (BuildKit, Buildah)


def missing(peer):
    return [name for name in peer.needs if not shutil.which(name)]
