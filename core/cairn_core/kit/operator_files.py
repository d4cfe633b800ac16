"""LIST_FILES and READ_FILE of the operator API, over the same virtual paths as `/files`.

Source: mesos docs/operator-http-api.md; master and agent answer alike.
"""

import stat

from cairn_core.kit.http_files import FileInfo, VirtualPaths, browse, in_thread, read
from cairn_core.kit.http_types import Refused
from cairn_core.mesos import operator_api as api
from cairn_core.mesos.types import TimeInfo

_KINDS = {
    "-": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK, "c": stat.S_IFCHR,
    "b": stat.S_IFBLK, "p": stat.S_IFIFO, "s": stat.S_IFSOCK,
}  # fmt: skip


async def answer(paths: VirtualPaths, call: api.Call) -> api.Response:
    """Answer one of the two calls; raises Refused with the status codes of `/files`."""
    if call.type == "LIST_FILES":
        if call.list_files is None:
            raise Refused(400, "call LIST_FILES: field 'list_files' is missing")
        found = await in_thread(browse, paths, call.list_files.path)
        infos = tuple(_info(info) for info in found)
        return api.Response(type="LIST_FILES", list_files=api.ListFiles(file_infos=infos))
    if call.read_file is None:
        raise Refused(400, "call READ_FILE: field 'read_file' is missing")
    wanted = call.read_file
    if wanted.offset < 0 or (wanted.length is not None and wanted.length < 0):
        raise Refused(400, f"read_file: negative offset {wanted.offset} or length {wanted.length}")
    _, size = await in_thread(read, paths, wanted.path, -1, 0)
    length = -1 if wanted.length is None else wanted.length
    data, _ = await in_thread(read, paths, wanted.path, wanted.offset, length)
    return api.Response(type="READ_FILE", read_file=api.ReadFile(size=size, data=data))


def _info(info: FileInfo) -> api.FileInfo:
    return api.FileInfo(
        path=info.path,
        nlink=info.nlink,
        size=info.size,
        mtime=TimeInfo(round(info.mtime * 1e9)),
        mode=mode_of(info.mode),
        uid=info.uid,
        gid=info.gid,
    )


def mode_of(text: str) -> int:
    """The number behind a mode as `ls -l` prints it: `-rw-r--r--` is 0o100644."""
    mode = _KINDS.get(text[:1], 0)
    for index, letter in enumerate(text[1:10]):
        if letter not in "-ST":
            mode |= 0o400 >> index
    for letters, bit in (((text[3:4]), stat.S_ISUID), ((text[6:7]), stat.S_ISGID)):
        mode |= bit if letters in ("s", "S") else 0
    return mode | (stat.S_ISVTX if text[9:10] in ("t", "T") else 0)
