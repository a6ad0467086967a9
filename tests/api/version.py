"""Makes another version of a pack file: the same policy under another number. Usage: version.py FILE VERSION OUT

The new number is as long as the old one, so that nothing moves: what changes is the number itself, and every digest that
follows from it. The signature no longer fits; `tollgate pack sign` makes a new one.
"""

import hashlib
import pathlib
import re
import sys

BLOCK = 512
CHECKSUM = slice(148, 156)
# Where a pack file names its version: in its manifest, and in the index.
PLACES = (rb'("version": ?")[0-9.]+(")', rb'(image\.ref\.name": ?")[0-9.]+(")')


def parts(file):
    """Each part: where its header begins, its path, its content."""
    at = 0
    while file[at : at + BLOCK].strip(b"\0"):
        path = file[at : at + 100].rstrip(b"\0").decode()
        size = int(file[at + 124 : at + 136].rstrip(b"\0 "), 8)
        yield at, path, bytes(file[at + BLOCK : at + BLOCK + size])
        at += BLOCK * (1 + -(-size // BLOCK))


def renamed(file):
    """The file with parts named by their digests again. What names a part changes with it, and is named anew, too."""
    for _, path, content in parts(file):
        folder, _, name = path.rpartition("/")
        digest = hashlib.sha256(content).hexdigest()
        if folder and name != digest:
            return renamed(file.replace(name.encode(), digest.encode()))
    return file


def main(source, version, target):
    file = pathlib.Path(source).read_bytes()
    for place in PLACES:
        file = re.sub(place, lambda found: found.group(1) + version.encode() + found.group(2), file)
    file = bytearray(renamed(file))
    for at, _, _ in parts(file):
        header = file[at : at + BLOCK]
        header[CHECKSUM] = b" " * 8
        file[at + CHECKSUM.start : at + CHECKSUM.stop] = b"%07o\0" % sum(header)
    pathlib.Path(target).write_bytes(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
