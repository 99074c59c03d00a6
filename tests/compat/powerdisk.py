"""A disk whose writes and flushes are recorded, on the real kernel, and what it holds after a power cut at any place of them.

    ext4 ── loop device ── file of a FUSE mount ── QEMU's storage daemon, which logs every write and flush (blklogwrites)

The log has the format of the kernel's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst): a superblock, then
for each entry a header (sector, sectors, flags, bytes of data; u64 each, little-endian) in a sector of its own, and its data."""

import mmap
import os
import pathlib
import random
import shutil
import struct
import subprocess
import time

MIB = 1 << 20
SECTOR = 512
DISK_BYTES = 128 * MIB
# Behind the file system, for marks.
MARK_AT = DISK_BYTES - 4096
MARK_MAGIC = b"HWMARK01"
LOG_MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
TOOLS = ("qemu-storage-daemon", "losetup", "mkfs.ext4", "mount", "umount")


class Missing(Exception):
    """Why no such disk can be made here."""


def run(*args):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    if done.returncode != 0:
        raise Missing(f"{args[0]} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def unmount(mountpoint):
    """A killed process may hold its files for a moment longer than its parent waits."""
    until = time.monotonic() + 10
    while True:
        try:
            return run("umount", mountpoint)
        except Missing as why:
            if "busy" not in str(why) or time.monotonic() > until:
                raise
            time.sleep(0.02)


class Disk:
    """Recorded from the first mount on."""

    def __init__(self, directory, options=""):
        self.directory = pathlib.Path(directory)
        self.base, self.log, self.mountpoint = (self.directory / name for name in ("base.img", "log.img", "mnt"))
        self.daemon = self.loop = self.marks = None
        self.mounted = False
        if os.geteuid() != 0:
            raise Missing("it takes root")
        missing = [tool for tool in TOOLS if not shutil.which(tool)]
        missing += [path for path in ("/dev/fuse", "/dev/loop-control") if not os.path.exists(path)]
        if missing:
            raise Missing(f"not there: {', '.join(missing)}. Try: apt-get install qemu-system-common fuse3")
        try:
            self.open(options)
        except BaseException:
            self.close()
            raise

    def open(self, options):
        live, exported = self.directory / "live.img", self.directory / "disk"
        for path, size in ((self.base, DISK_BYTES), (self.log, 4 << 30)):
            with open(path, "wb") as file:
                file.truncate(size)
        run("mkfs.ext4", "-q", "-b", "4096", self.base, (DISK_BYTES - MIB) // 4096)
        run("cp", "--sparse=always", self.base, live)
        exported.touch()
        self.mountpoint.mkdir()
        self.daemon = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=f,filename={live}", "--blockdev", f"driver=file,node-name=l,filename={self.log}",
             "--blockdev", f"driver=blklogwrites,node-name=d,file=f,log=l,log-sector-size={SECTOR}",
             "--export", f"type=fuse,id=e,node-name=d,mountpoint={exported},writable=on"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        until = time.monotonic() + 10
        while exported.stat().st_size == 0:
            if self.daemon.poll() is not None or time.monotonic() > until:
                raise Missing("the storage daemon exports nothing: " + (self.daemon.stderr.read().decode().strip() if self.daemon.poll() is not None else "10 s"))
            time.sleep(0.02)
        self.loop = run("losetup", "-f", "--show", exported)
        run("mount", *(["-o", options] if options else []), self.loop, self.mountpoint)
        self.mounted = True
        self.marks = os.open(self.loop, os.O_WRONLY | os.O_DIRECT)
        self.buffer = mmap.mmap(-1, 4096)

    def mark(self, numbers):
        """Records, behind everything that was written before, that so much was acked."""
        self.buffer.seek(0)
        self.buffer.write(MARK_MAGIC + struct.pack("<I", len(numbers)) + struct.pack(f"<{len(numbers)}Q", *numbers))
        os.pwritev(self.marks, [memoryview(self.buffer)[:SECTOR]], MARK_AT)

    def close(self):
        """Ends the recording."""
        if self.marks is not None:
            os.close(self.marks)
            self.marks = None
        if self.mounted:
            unmount(self.mountpoint)
            self.mounted = False
        if self.loop:
            run("losetup", "-d", self.loop)
            self.loop = None
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait(30)
            self.daemon.stderr.close()
            self.daemon = None


class Recording:
    """What was recorded, and its cuts. They are to be asked for in order of their places."""

    def __init__(self, disk, cache=None):
        """With a `cache` of so many entries the disk lies: it takes flushes for nothing, and writes what leaves its cache."""
        self.disk = disk
        self.cache = cache
        self.entries = list(self.read())
        self.durable = disk.directory / "durable.img"
        run("cp", "--sparse=always", disk.base, self.durable)
        self.applied = 0

    def read(self):
        """Place, data and flags of each entry."""
        with open(self.disk.log, "rb") as log:
            magic, _, count, sector = struct.unpack("<QQQI", log.read(28))
            assert magic == LOG_MAGIC and sector == SECTOR, (hex(magic), sector)
            at = SECTOR
            for _ in range(count):
                log.seek(at)
                first, sectors, flags, _ = struct.unpack("<QQQQ", log.read(32))
                at += SECTOR
                data = b""
                if sectors and not flags & DISCARD:
                    log.seek(at)
                    data = log.read(sectors * SECTOR)
                    at += len(data)
                yield first * SECTOR, data, flags

    @staticmethod
    def marked(entry):
        """The numbers of a mark, or nothing."""
        at, data, _ = entry
        if at != MARK_AT or data[:8] != MARK_MAGIC:
            return None
        (count,) = struct.unpack_from("<I", data, 8)
        return struct.unpack_from(f"<{count}Q", data, 12)

    def first_mark(self):
        return next(i for i, entry in enumerate(self.entries) if self.marked(entry))

    def cut(self, at, seed, image):
        """Writes what is on the disk after a cut behind entry `at` into a file; gives the newest mark before it, and how much was
        lost or torn. A write that a flush ended behind is there. Each other one is there, torn in sectors, or not."""
        if self.cache is None:
            flushed = max((i for i in range(at) if self.entries[i][2] & FLUSH), default=-1)
        else:
            flushed = max(at - self.cache, -1)
        with open(self.durable, "r+b") as file:
            for place, data, _ in self.entries[self.applied : flushed + 1]:
                if data:
                    file.seek(place)
                    file.write(data)
        self.applied = max(self.applied, flushed + 1)
        run("cp", "--sparse=always", self.durable, image)
        rng, lost = random.Random(seed), 0
        with open(image, "r+b") as file:
            for place, data, flags in self.entries[flushed + 1 : at]:
                fate = rng.random()
                if not data or place == MARK_AT:
                    continue
                if fate < 0.5 or flags & FUA and self.cache is None:
                    kept = [(0, len(data))]
                elif fate < 0.75:
                    kept = [(i, i + SECTOR) for i in range(0, len(data), SECTOR) if rng.random() < 0.5]
                else:
                    kept = []
                lost += sum(until - begins for begins, until in kept) < len(data)
                for begins, until in kept:
                    file.seek(place + begins)
                    file.write(data[begins:until])
        marks = (self.marked(entry) for entry in reversed(self.entries[:at]))
        return next((mark for mark in marks if mark), None), lost


class Mounted:
    """An image, mounted."""

    def __init__(self, image, mountpoint):
        self.image, self.mountpoint = image, mountpoint

    def __enter__(self):
        self.loop = run("losetup", "-f", "--show", self.image)
        try:
            run("mount", self.loop, self.mountpoint)
        except Missing:
            run("losetup", "-d", self.loop)
            raise
        return self.mountpoint

    def __exit__(self, *_):
        unmount(self.mountpoint)
        run("losetup", "-d", self.loop)
