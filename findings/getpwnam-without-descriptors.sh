#!/usr/bin/env bash
# CPython 3.11 (glibc 2.36): without a free descriptor pwd.getpwnam("root") says that there is no root.
#
# getpwnam_r(3) returns EMFILE, for it cannot open /etc/passwd. The pwd module has an exception of its
# own for ENOMEM only, and makes of all other errors the KeyError that means "name not found".
# So a program that reads user names from a file of its own while it is short of descriptors takes
# each of them for a mistake in the file, and cannot tell. Output:
#
#   at first: 0
#   without a descriptor: KeyError "getpwnam(): name not found: 'root'"
#   the file itself: [Errno 24] Too many open files: '/etc/passwd'
#   with descriptors again: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/users.py" << 'PYTHON'
import os
import pwd
import resource

print("at first:", pwd.getpwnam("root").pw_uid)
free = os.dup(0)
os.close(free)
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
try:
    pwd.getpwnam("root")
except Exception as error:
    print("without a descriptor:", type(error).__name__, error)
try:
    open("/etc/passwd")
except OSError as error:
    print("the file itself:", error)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
print("with descriptors again:", pwd.getpwnam("root").pw_uid)
PYTHON
python3 --version
python3 "$folder/users.py" | tee "$folder/seen"
diff "$folder/seen" - << 'SEEN' || { echo 'it behaves otherwise now'; exit 1; }
at first: 0
without a descriptor: KeyError "getpwnam(): name not found: 'root'"
the file itself: [Errno 24] Too many open files: '/etc/passwd'
with descriptors again: 0
SEEN
