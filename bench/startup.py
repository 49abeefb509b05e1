"""Writes crates/larder/startup.ld: which functions a cached build runs, so that the linker lays them side by side. Needs
valgrind, as root, and some minutes; worth it again when much has changed. What it names and is not there any more, does no harm.

Names go without the hashes that a compiler puts into them, and so stand for all instances of a generic function. Of our own
crates whole modules are named: their functions come and go."""

import collections
import itertools
import os
import re
import shlex
import subprocess
import tempfile

from base import make_base
from workloads import many_files, stages_and_files

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(HERE, "../crates/larder/startup.ld")


def binary(work):
    """The command with its symbols. The compiler is told as cargo told it: names have hashes of what it was told."""
    os.utime(os.path.join(HERE, "../crates/larder/src/main.rs"))
    build = ["cargo", "build", "--release", "-vv", "-p", "larder"]
    said = subprocess.run(build, cwd=HERE, check=True, stderr=subprocess.PIPE, text=True).stderr
    command = shlex.split(re.findall(r"Running `([^\n]* --crate-name larder [^\n]* bin [^\n]*)`", said)[-1])
    first = next(i for i, word in enumerate(command) if "=" not in word)
    env = dict(os.environ, **dict(word.split("=", 1) for word in command[:first]))
    words = [word for word in command[first:] if not word.startswith(("--json", "--error-format", "--emit"))]
    words[words.index("--out-dir") + 1] = work
    words += ["--emit=link", "-C", "strip=none"]
    subprocess.run(words, cwd=os.path.join(HERE, ".."), env=env, check=True)
    return next(os.path.join(work, name) for name in os.listdir(work) if name.startswith("larder-"))


def called(larder, work):
    """Mangled names of what cached builds call."""
    base = os.path.join(work, "base")
    make_base(base)
    env = dict(os.environ, LARDER_ROOT=os.path.join(work, "larder"))
    subprocess.run([larder, "image", "import", "base", base + ".tar"], env=env, check=True)
    names = set()
    for make in (stages_and_files, many_files):
        context, out = os.path.join(work, make.__name__), os.path.join(work, "calls")
        os.makedirs(context)
        make(context)
        build = [larder, "build", "--progress", "quiet", "-o", "type=cacheonly", context]
        subprocess.run(build, env=env, check=True)
        subprocess.run(build, env=env, check=True)
        watch = ["valgrind", "--quiet", "--tool=callgrind", "--demangle=no", "--callgrind-out-file=" + out]
        subprocess.run([*watch, *build], env=env, check=True)
        with open(out) as calls:
            names.update(re.findall(r"^c?fn=\(\d+\) ([^'\n]+)", calls.read(), re.MULTILINE))
    return names


def pattern(name, own):
    """Sections of a function, whatever compiler made it: `_ZN…17h<hash>E`, or `_R…` with hashes of crates. `own` are our
    crates."""
    if not name.startswith("_ZN"):
        return re.sub(r"Cs[0-9A-Za-z]+_(?=\d)", "Cs*_", name)
    parts, rest = [], name[3:]
    while number := re.match(r"\d+", rest):
        end = number.end() + int(number[0])
        parts.append(rest[number.end() : end])
        rest = rest[end:]
    module = list(itertools.takewhile(re.compile("[a-z_0-9]+$").match, parts[:-2]))
    if len(module) > 1 and module[0] in own:
        return "_ZN" + "".join(f"{len(part)}{part}" for part in module) + "*"
    return re.sub(r"17h[0-9a-f]{16}E.*", "17h*", name)


def main():
    own = os.listdir(os.path.join(HERE, "../crates"))
    with tempfile.TemporaryDirectory(prefix="larder-startup-") as work:
        larder = binary(work)
        symbols = subprocess.check_output(["nm", "-S", larder], text=True)
        found = re.findall(r"^\S+ (\S+) [tT] (_[ZR]\S+)$", symbols, re.MULTILINE)
        sizes = {name: int(size, 16) for size, name in found}
        hot = {name: pattern(name, own) for name in called(larder, work) & sizes.keys()}
    whole, needed = collections.Counter(), collections.Counter()
    for name, size in sizes.items():
        whole[pattern(name, own)] += size
    for name, wanted in hot.items():
        needed[wanted] += sizes[name]
    # Of a generic function with many instances these few lie first; another compiler gives them other names, and they are
    # among the rest.
    generic = {wanted for wanted in needed if "*" in wanted and needed[wanted] * 4 < whole[wanted]}
    first = {name if wanted in generic else wanted for name, wanted in hot.items()}
    # One list each: a linker goes through all sections once for each.
    lines = ["SECTIONS {", "  .text.cached : {"]
    for sections in (first, generic):
        lines += ["    *(", *(f".text.{name}" for name in sorted(sections)), "    )"]
    with open(SCRIPT, "w") as file:
        file.write("/* Written by bench/startup.py. */\n" + "\n".join([*lines, "  }", "}", "INSERT BEFORE .text;"]) + "\n")
    print(f"{len(hot)} functions of {sum(needed.values()) / 1e6:.1f} MB")


main()
