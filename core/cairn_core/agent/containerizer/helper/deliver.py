"""Put a file into a sandbox, or unpack it there, as the task's user.

Run as `python -I -S -c <this text> KIND NAME MODE MAX_BYTES` in the sandbox, with the file on
standard input. KIND is none, tar, zip or gzip. Nothing is written outside the working directory:
names with `..`, absolute names, links that lead out, devices, and what would pass through such a
link are refused. Ends with 1 and one line on standard error when it refuses.
"""

import gzip
import os
import stat
import sys
import tarfile
import zipfile
from typing import IO, NoReturn

MAX_MEMBERS = 200_000
BLOCK = 1 << 20


class Refused(Exception):
    """The file must not be put there."""


class Target:
    """The working directory, with a bound on what may be written into it."""

    def __init__(self, max_bytes: int) -> None:
        self.root = os.path.realpath(".")
        self.left = max_bytes
        self.members = 0

    def place(self, name: str) -> str:
        """Absolute path for a member; its directory is made, an old file or link removed."""
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise Refused(f"more than {MAX_MEMBERS} members")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            raise Refused(f"{name!r} leads out of the sandbox")
        if not parts:
            return self.root
        parent = os.path.join(self.root, *parts[:-1])
        self.inside(parent, name)
        os.makedirs(parent, exist_ok=True)
        path = os.path.join(os.path.realpath(parent), parts[-1])
        if os.path.lexists(path) and not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
        return path

    def inside(self, path: str, name: str) -> None:
        """Refuse a path that really lies elsewhere, whatever links it passes."""
        real = os.path.realpath(path)
        if real != self.root and not real.startswith(self.root + "/"):
            raise Refused(f"{name!r} leads out of the sandbox")

    def file(self, source: IO[bytes] | gzip.GzipFile, name: str, mode: int) -> None:
        """Write a regular file; permission bits only, no set-user-id."""
        path = self.place(name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode & 0o777)
        with open(fd, "wb") as file:
            while block := source.read(BLOCK):
                self.left -= len(block)
                if self.left < 0:
                    raise Refused("unpacks to more than is allowed")
                file.write(block)
            os.fchmod(fd, mode & 0o777)

    def link(self, target: str, name: str) -> None:
        """Make a symbolic link that stays inside."""
        path = self.place(name)
        if os.path.isabs(target):
            raise Refused(f"{name!r} is a link to {target!r}, out of the sandbox")
        self.inside(os.path.join(os.path.dirname(path), target), name)
        os.symlink(target, path)

    def hard_link(self, target: str, name: str) -> None:
        """Make a second name of a file unpacked before."""
        path = self.place(name)
        source = os.path.join(self.root, target)
        if os.path.isabs(target):
            raise Refused(f"{name!r} is a link to {target!r}, out of the sandbox")
        self.inside(source, name)
        os.link(source, path, follow_symlinks=False)

    def directory(self, name: str, mode: int) -> None:
        """Make a directory that its owner can use."""
        path = self.place(name)
        if path != self.root:
            os.makedirs(path, exist_ok=True)
            os.chmod(path, mode & 0o777 | 0o700)


def untar(source: IO[bytes], target: Target) -> None:
    """Unpack a tar archive of any compression; later members replace earlier ones."""
    with tarfile.open(fileobj=source, mode="r:*") as archive:
        for member in archive:
            if member.isdir():
                target.directory(member.name, member.mode)
            elif member.issym():
                target.link(member.linkname, member.name)
            elif member.islnk():
                target.hard_link(member.linkname, member.name)
            elif member.isreg():
                content = archive.extractfile(member)
                assert content is not None
                target.file(content, member.name, member.mode)
            else:
                raise Refused(f"{member.name!r} is neither file, directory nor link")


def unzip(source: IO[bytes], target: Target) -> None:
    """Unpack a zip archive."""
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            mode = member.external_attr >> 16
            if member.is_dir():
                target.directory(member.filename, mode & 0o777 or 0o755)
            elif stat.S_ISLNK(mode):
                with archive.open(member) as content:
                    target.link(content.read(4096).decode(), member.filename)
            else:
                with archive.open(member) as content:
                    target.file(content, member.filename, mode & 0o777 or 0o644)


def main() -> NoReturn:
    """Do as the module docstring says."""
    kind, name, mode, max_bytes = sys.argv[1:]
    source = sys.stdin.buffer
    target = Target(int(max_bytes))
    os.umask(0o022)
    try:
        if kind == "tar":
            untar(source, target)
        elif kind == "zip":
            unzip(source, target)
        elif kind == "gzip":
            with gzip.open(source) as content:
                target.file(content, name.removesuffix(".gz"), int(mode, 8))
        else:
            target.file(source, name, int(mode, 8))
    except tarfile.TarError as error:
        print("damaged archive:", *str(error).split(), file=sys.stderr)  # on one line
        sys.exit(1)
    except (Refused, OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        print(f"{error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:  # zlib.error, lzma.LZMAError and their like share no base
        print(f"damaged archive: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
