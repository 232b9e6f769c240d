"""System call filter (seccomp, Linux): decoders may compute, allocate memory, and use the socket they were given.

Every call that is not listed fails with EPERM: no opening files, executing programs, reaching the network, or
inspecting or signalling other processes. Threads may be created, processes may not; no new memory is executable.
"""

import ctypes
import errno
import platform
import struct
import sys

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ, BPF_JMP|JSET, BPF_RET
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ARGUMENT_BYTES = 8

_CLONE_THREAD = 0x00010000
_PROT_EXEC = 0x4

# Audit number of the architecture, then the allowed calls; some only with certain arguments (see _instructions).
_ARCHITECTURES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            **{"close": 3, "lseek": 8, "munmap": 11, "brk": 12, "rt_sigaction": 13},
            **{"rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "sched_yield": 24, "mremap": 25, "madvise": 28},
            **{"nanosleep": 35, "getpid": 39, "sendto": 44, "recvfrom": 45, "exit": 60, "uname": 63, "getrusage": 98},
            **{"gettimeofday": 96, "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202},
            **{"sched_getaffinity": 204, "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229},
            **{"clock_nanosleep": 230, "exit_group": 231, "set_robust_list": 273, "getrandom": 318, "membarrier": 324},
            **{"rseq": 334, "clone": 56, "clone3": 435, "mmap": 9, "mprotect": 10},
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            **{"close": 57, "lseek": 62, "munmap": 215, "brk": 214, "rt_sigaction": 134},
            **{"rt_sigprocmask": 135, "rt_sigreturn": 139, "pread64": 67, "sched_yield": 124, "mremap": 216},
            **{"madvise": 233, "nanosleep": 101, "getpid": 172, "sendto": 206, "recvfrom": 207, "exit": 93},
            **{"uname": 160, "getrusage": 165, "gettimeofday": 169, "sigaltstack": 132, "gettid": 178, "futex": 98},
            **{"sched_getaffinity": 123, "restart_syscall": 128, "clock_gettime": 113, "clock_getres": 114},
            **{"clock_nanosleep": 115, "exit_group": 94, "set_robust_list": 99, "getrandom": 278, "membarrier": 283},
            **{"rseq": 293, "clone": 220, "clone3": 435, "mmap": 222, "mprotect": 226},
        },
    ),
}


class NoFilter(OSError):
    """The filter is not supported on this system."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def forbid_system_calls() -> None:
    """Installs the filter, irrevocably, for this process and all threads it creates from now on.

    Raises:
        NoFilter: The system is not Linux on x86_64 or aarch64, or the kernel refuses.
    """
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        raise NoFilter(errno.ENOSYS, f"not supported on {sys.platform}, {platform.machine()}")
    code = _instructions(*_ARCHITECTURES[platform.machine()])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
    for call in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(program), 0, 0),
    ):
        if libc.prctl(*call) != 0:
            raise NoFilter(ctypes.get_errno(), f"the kernel refused it (errno {ctypes.get_errno()})")


def _instructions(architecture: int, numbers: dict[str, int]) -> bytes:
    """The filter as classic BPF: compares call numbers one by one, with short jumps only."""
    refuse, allow = (_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)
    code = [(_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_EQUAL, 1, 0, architecture), refuse, (_LOAD, 0, 0, _NUMBER)]
    restricted = {
        # Threads only. glibc falls back to `clone` if there is no `clone3`, whose flags a filter cannot read.
        "clone": [_load_argument(0), (_JUMP_SET, 0, 1, _CLONE_THREAD), allow, refuse],
        "clone3": [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)],
        "mmap": [_load_argument(2), (_JUMP_SET, 1, 0, _PROT_EXEC), allow, refuse],
        "mprotect": [_load_argument(2), (_JUMP_SET, 1, 0, _PROT_EXEC), allow, refuse],
    }
    for name, number in numbers.items():
        answer = restricted.get(name, [allow])
        code += [(_JUMP_EQUAL, 0, len(answer), number), *answer]
    code.append(refuse)
    return b"".join(struct.pack("<HBBI", *each) for each in code)


def _load_argument(index: int) -> tuple[int, int, int, int]:
    """Loads the lower half of an argument; both architectures are little-endian."""
    return (_LOAD, 0, 0, _FIRST_ARGUMENT + _ARGUMENT_BYTES * index)
