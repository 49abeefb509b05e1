"""The base image of all workloads: this machine's static busybox."""

import os
import shutil
import subprocess


def make_base(base):
    """An image of this machine's static busybox."""
    for folder in ("bin", "etc", "tmp", "root", "proc", "sys", "dev"):
        os.makedirs(os.path.join(base, folder))
    shutil.copy("/bin/busybox", os.path.join(base, "bin/busybox"))
    for applet in subprocess.check_output(["/bin/busybox", "--list"], text=True).split():
        if applet != "busybox":
            os.symlink("busybox", os.path.join(base, "bin", applet))
    with open(os.path.join(base, "etc/passwd"), "w") as file:
        file.write("root:x:0:0:root:/root:/bin/sh\n")
    subprocess.run(["tar", "-C", base, "-cf", base + ".tar", "."], check=True)
