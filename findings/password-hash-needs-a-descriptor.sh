#!/usr/bin/env bash
# libpass 1.9.4 with bcrypt 5.0.0: the first check of a password opens files, and fails without a descriptor.
#
# bcrypt.verify(password, hash) is documented to return a bool, or to raise TypeError or ValueError
# for what is no string or no hash. But it imports the package bcrypt when it is first called, so a
# server that is short of descriptors just then gets OSError from what looks like arithmetic. After
# one success no later call needs a descriptor: check one hash at the start. Output:
#
#   first, without a descriptor: OSError [Errno 24] Too many open files
#   with descriptors: True
#   later, without a descriptor: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check libpass==1.9.4 bcrypt==5.0.0
cat > "$folder/hash.py" << 'PYTHON'
import os
import resource

from passlib.hash import bcrypt

HASHED = "$2b$04$abcdefghijklmnopqrstuuguFleIxy8dETUY.GrzteKSK3w82GLfS"
free = os.dup(0)
os.close(free)
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)


def check(when: str, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        print(when, bcrypt.verify("-", HASHED))
    except OSError as error:
        print(when, type(error).__name__, f"[Errno {error.errno}] {error.strerror}")


check("first, without a descriptor:", free)
check("with descriptors:", hard)
check("later, without a descriptor:", free)
PYTHON
"$folder/venv/bin/python" --version
"$folder/venv/bin/python" "$folder/hash.py" | tee "$folder/seen"
diff "$folder/seen" - << 'SEEN' || { echo 'it behaves otherwise now'; exit 1; }
first, without a descriptor: OSError [Errno 24] Too many open files
with descriptors: True
later, without a descriptor: True
SEEN
