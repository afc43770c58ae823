"""The real input: every regular file of real directories. Keys are paths, values are contents."""

import os

VALUE_BYTES_MAX = 32 << 20  # MAX_VALUE_SIZE
BIG_BYTES = 4 << 20  # above what gRPC clients take by default


def files(*roots):
    """Paths (bytes) of the regular files that can be read, in order."""
    found = []
    for root in roots:
        for folder, folders, names in os.walk(os.fsencode(root)):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path) and os.access(path, os.R_OK) \
                        and os.path.getsize(path) <= VALUE_BYTES_MAX:
                    found.append(path)
    return found


def biggest(root, count):
    """The `count` biggest files below a directory that still are a value."""
    return sorted(files(root), key=lambda path: (-os.path.getsize(path), path))[:count]
