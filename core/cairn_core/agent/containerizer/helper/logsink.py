"""Sandbox log files `stdout` and `stderr`, rotated by size while they are written.

The monitor reads a container's output from a pipe and writes it here, so rotation loses nothing
and needs no agent. The directory belongs to an untrusted user: every name is looked up beneath one
descriptor and no symbolic link is followed.
"""

import contextlib
import os
import stat

READ_BYTES = 65536


class LogSink:
    """One log file of at most `max_bytes`, with `keep` older ones named `<name>.1`, `.2` ...

    max_bytes: 0 means a plain file without rotation. OSError when the file cannot be opened or is
    not a regular file with one name. Lines are not cut unless longer than `max_bytes`.
    """

    def __init__(self, directory: str, name: str, max_bytes: int, keep: int) -> None:
        self.name = name
        self.max_bytes = max_bytes
        self.keep = max(keep, 0)
        self.lost = 0  # bytes dropped because the disk was full, since the last written byte
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._dir = os.open(directory, flags)
        info = os.fstat(self._dir)
        self._owner = (info.st_uid, info.st_gid)
        try:
            self._open()
        except OSError:
            os.close(self._dir)
            raise

    def fileno(self) -> int:
        """Descriptor of the file written now."""
        return self._fd

    def close(self) -> None:
        """Close the file; `write` must not follow."""
        os.close(self._fd)
        os.close(self._dir)

    def _open(self) -> None:
        flags = (
            os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
        self._fd = os.open(self.name, flags, 0o644, dir_fd=self._dir)
        info = os.fstat(self._fd)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
            os.close(self._fd)
            raise OSError(f"{self.name}: not a plain file with one name")
        if os.geteuid() == 0 and (info.st_uid, info.st_gid) != self._owner:
            os.fchown(self._fd, *self._owner)
        self._size = info.st_size

    def write(self, data: bytes) -> None:
        """Append, rotating where the limit falls. A full disk drops bytes and never raises."""
        while data:
            room = self.max_bytes - self._size if self.max_bytes else len(data)
            cut = len(data)
            if cut > room:
                cut = data.rfind(b"\n", 0, max(room, 0)) + 1
                if not cut and self._size == 0:
                    cut = self.max_bytes
            if not cut:
                self._rotate()
                continue
            self._append(data[:cut])
            data = data[cut:]

    def _append(self, data: bytes) -> None:
        if self.lost:
            note = f"\n[{self.lost} bytes of output lost: disk full]\n".encode()
            with contextlib.suppress(OSError):
                self._size += os.write(self._fd, note)
                self.lost = 0
        view = memoryview(data)
        while view:
            try:
                written = os.write(self._fd, view)
            except OSError:
                self.lost += len(view)
                return
            self._size += written
            view = view[written:]

    def _rotate(self) -> None:
        for number in range(self.keep, 0, -1):
            older = self.name if number == 1 else f"{self.name}.{number - 1}"
            with contextlib.suppress(OSError):
                os.rename(
                    older, f"{self.name}.{number}", src_dir_fd=self._dir, dst_dir_fd=self._dir
                )
        if not self.keep:
            with contextlib.suppress(OSError):
                os.unlink(self.name, dir_fd=self._dir)
        old = self._fd
        try:
            self._open()
        except OSError:  # a directory or a link put there by the task: keep the open file
            self._fd, self._size = old, 0
            return
        os.close(old)
        if self._size:  # the rename failed, so this is the old file: start it anew
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
        self._size = 0
