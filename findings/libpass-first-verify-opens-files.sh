#!/usr/bin/env bash
# libpass 1.9.4 (passlib.hash) with bcrypt 5.0.0: to import passlib.hash.bcrypt loads no bcrypt. The
# first verify() does, and it opens files: a server that is short of descriptors then gets EMFILE
# out of the check of a password, which needs none. Output:
#
#     imported, bcrypt loaded: False
#     first verify with no descriptor left: OSError, [Errno 24] Too many open files
#     verify after set_backend() with no descriptor left: True
#
# So a server has to call set_backend() at its start.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check libpass==1.9.4 bcrypt==5.0.0 2> /dev/null
cat > "$work/verify.py" <<'PYTHON'
import os
import resource
import sys

from passlib.hash import bcrypt

HASH = "$2b$04$aOjgytpP8qwdW9jAAzn4/Ozyezkbf4DTQwCWLK6VtO5575J2KVPeO"  # of "secret"


def without_descriptors() -> str:
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    try:
        return str(bcrypt.verify("secret", HASH))
    except OSError as error:
        return f"{type(error).__name__}, [Errno {error.errno}] {error.strerror}"
    finally:
        for fd in held:
            os.close(fd)


resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
print("imported, bcrypt loaded:", "bcrypt" in sys.modules)
if sys.argv[1] == "first":
    print("first verify with no descriptor left:", without_descriptors())
else:
    bcrypt.set_backend()
    print("verify after set_backend() with no descriptor left:", without_descriptors())
PYTHON
{
    "$work/venv/bin/python" "$work/verify.py" first < /dev/null
    "$work/venv/bin/python" "$work/verify.py" later < /dev/null | tail -1
} | tee "$work/seen"
diff "$work/seen" - <<'SEEN' || { echo 'it behaves otherwise now'; exit 1; }
imported, bcrypt loaded: False
first verify with no descriptor left: OSError, [Errno 24] Too many open files
verify after set_backend() with no descriptor left: True
SEEN
