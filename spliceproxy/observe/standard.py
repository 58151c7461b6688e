"""The names of standard output and standard error as places for a log."""

STANDARD = {
    "-": 1,
    "/dev/stdout": 1,
    "/dev/fd/1": 1,
    "/proc/self/fd/1": 1,
    "/dev/stderr": 2,
    "/dev/fd/2": 2,
    "/proc/self/fd/2": 2,
}
"""Names of descriptors that are open already. To open one by its name fails where it is a
socket, as under systemd, or another user's, as in many containers."""
