#!/usr/bin/env python3
"""Pushes and pulls 2 GB in 200 blobs, eight at a time, against `larder registry` and Debian's docker-registry.

usage: bench/registry.py LARDER [FOLDER]

The client hands files to the kernel (sendfile) and has it throw away what comes (MSG_TRUNC), so that no byte is copied into
the client and the registry is what is measured.
Prints throughput and the highest resident memory of each, as the kernel counts it (VmHWM)."""
import hashlib, os, shutil, socket, subprocess, sys, tempfile, threading, time

BLOBS, SIZE, CLIENTS = 200, 10 << 20, 8


def blobs(folder):
    made = []
    for number in range(BLOBS):
        path = f"{folder}/{number}"
        data = os.urandom(SIZE)
        with open(path, "wb") as file:
            file.write(data)
        made.append((path, "sha256:" + hashlib.sha256(data).hexdigest()))
    return made


class Client:
    def __init__(self, port):
        self.port, self.socket, self.file = port, None, None

    def head(self, text):
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self.port))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.file = self.socket.makefile("rb", 0)
        self.socket.sendall(text.encode())

    def answer(self):
        line, headers = b"", {}
        status = None
        while True:
            line = self.line()
            if status is None:
                status = int(line.split(b" ")[1])
            elif not line:
                return status, headers
            else:
                name, value = line.split(b": ", 1)
                headers[name.lower()] = value

    def line(self):
        text = bytearray()
        while not text.endswith(b"\r\n"):
            text += self.socket.recv(1)
        return bytes(text[:-2])

    def push(self, path, digest):
        host = f"Host: 127.0.0.1:{self.port}\r\n"
        self.head(f"POST /v2/bench/blobs/uploads/ HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n")
        status, headers = self.answer()
        assert status == 202, status
        location = headers[b"location"].decode()
        location = "/" + location.split("/", 3)[3] if location.startswith("http") else location
        mark = "&" if "?" in location else "?"
        self.head(f"PUT {location}{mark}digest={digest} HTTP/1.1\r\n{host}Content-Type: application/octet-stream\r\n"
                  f"Content-Length: {SIZE}\r\n\r\n")
        with open(path, "rb") as file:
            sent = 0
            while sent < SIZE:
                sent += os.sendfile(self.socket.fileno(), file.fileno(), sent, SIZE - sent)
        status, _ = self.answer()
        assert status == 201, status

    def pull(self, _path, digest):
        self.head(f"GET /v2/bench/blobs/{digest} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n")
        status, headers = self.answer()
        assert status == 200 and int(headers[b"content-length"]) == SIZE, (status, headers)
        buffer, left = bytearray(4 << 20), SIZE
        while left:
            left -= self.socket.recv_into(buffer, min(left, len(buffer)), socket.MSG_TRUNC)


def all_of(port, made, what):
    todo, lock = list(made), threading.Lock()

    def work():
        client = Client(port)
        while True:
            with lock:
                if not todo:
                    return
                item = todo.pop()
            getattr(client, what)(*item)

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    begun = time.monotonic()
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not todo
    return time.monotonic() - begun


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def measure(name, command, port, made):
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        os.sync()
        push = all_of(port, made, "push")
        pull = all_of(port, made, "pull")
        lines = open(f"/proc/{child.pid}/status").read().splitlines()
        peak = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
        total = BLOBS * SIZE / 1e6
        print(f"{name:16} push {push:6.2f} s {total / push:7.0f} MB/s   pull {pull:6.2f} s {total / pull:7.0f} MB/s"
              f"   peak {peak:6.1f} MiB", flush=True)
    finally:
        child.terminate()
        child.wait()


def main():
    larder = sys.argv[1]
    work = tempfile.mkdtemp(dir=sys.argv[2] if len(sys.argv) > 2 else None)
    try:
        os.mkdir(f"{work}/blobs")
        made = blobs(f"{work}/blobs")
        port = free_port()
        measure("larder registry", [larder, "registry", "--addr", f"127.0.0.1:{port}", "--root", f"{work}/larder"], port, made)
        shutil.rmtree(f"{work}/larder")
        port = free_port()
        config = f"{work}/config.yml"
        with open(config, "w") as file:
            file.write(f"version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {work}/docker\n"
                       f"http:\n  addr: 127.0.0.1:{port}\n")
        measure("docker-registry", ["docker-registry", "serve", config], port, made)
    finally:
        shutil.rmtree(work)


main()
