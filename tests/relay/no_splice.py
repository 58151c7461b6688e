"""A seccomp filter for this process: splice(2) answers with an errno of choice."""

from __future__ import annotations

import ctypes
import platform
import struct

PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000
BPF_LD_W_ABS = 0x20
BPF_JEQ_K = 0x15
BPF_RET_K = 0x06
SPLICE_NUMBER = {"x86_64": 275, "aarch64": 76, "riscv64": 76}


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid_splice(error: int) -> None:
    """From now on, and for good, splice(2) in this thread fails with ``error``."""
    number = SPLICE_NUMBER[platform.machine()]
    instructions = (
        (BPF_LD_W_ABS, 0, 0, 0),  # seccomp_data.nr
        (BPF_JEQ_K, 0, 1, number),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ERRNO | error),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW),
    )
    code = b"".join(struct.pack("HBBI", *one) for one in instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    unused = [ctypes.c_ulong(0)] * 2
    if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), *unused, ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    program = Program(len(instructions), code)
    if libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")
