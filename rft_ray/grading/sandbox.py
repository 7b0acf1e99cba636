"""Limits of a process on Linux, for code that a model wrote. Each function limits the calling process for good.

    limit_resources      CPU seconds, memory, file sizes, core dumps
    deny_calls           no network, no new processes, no signals to others: a seccomp filter
    deny_files_outside   no file is written, made, renamed or removed outside one folder: Landlock, where the kernel has
                         it, and an audit hook of Python's. By Landlock, only Python's own files and the system's
                         libraries can be read; without it, all but /proc and /sys, which show other processes' keys

The filter knows x86-64 and AArch64; elsewhere `deny_calls` raises OSError, and nothing
is run. Sources: seccomp(2), landlock(7), linux/seccomp.h, linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
_LIBC = ctypes.CDLL(None, use_errno=True)
_OPEN_FILES = 256
_FILE_BYTES = 16 << 20


def _prctl(option: int, argument: Any, second: Any = 0) -> None:
    if _LIBC.prctl(option, argument, second, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent, which has this id, ends."""
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Make descendants whose parents end children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def limit_memory(gib: float) -> None:
    """Bound the address space; more raises MemoryError."""
    most = int(gib * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_processes(more: int = 256) -> None:
    """Bound the processes and threads of this user to so many more than now; root has no such limit."""
    own, now = os.getuid(), 0
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == own:
                now += len(os.listdir(f"/proc/{entry.name}/task"))
        except OSError:  # it ended
            continue
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    most = now + more if hard == resource.RLIM_INFINITY else min(now + more, hard)
    resource.setrlimit(resource.RLIMIT_NPROC, (most, hard))


def limit_cpu(seconds: float) -> None:
    """Let the kernel end this process after so many more seconds of CPU time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 2
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def limit_files() -> None:
    """Bound the size of a written file, and the number of open ones."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))


# --- seccomp --------------------------------------------------------------------------------------

# Calls that are denied, by number. Network: socket, connect, bind; io_uring and memfd_create lead around the filter and
# around Landlock. Processes: fork, vfork, execve, execveat, kill and its kind, setsid, setpgid, ptrace, process_vm_*,
# pidfd_getfd. Files, where Landlock does not look: chmod, chown, utime, xattr, truncate. Rights: mount, unshare, setns,
# bpf, keyctl, perf_event_open, userfaultfd.
_X86 = (
    *(41, 42, 49, 425, 319, 57, 58, 59, 322, 62, 200, 234, 129, 297, 112, 109, 101, 310, 311, 424, 90, 91, 92, 93, 94),
    *(268, 260, 452, 132, 235, 261, 280, 188, 189, 190, 165, 272, 308, 321, 250, 298, 323, 438, 76),
)
_ARM = (
    *(198, 203, 200, 425, 279, 221, 281, 129, 130, 131, 138, 240, 157, 154, 117, 270, 271, 424, 52, 53, 54, 55, 452),
    *(88, 5, 6, 7, 40, 97, 268, 280, 219, 241, 282, 438, 45),
)
# What outlives the process: shmget, semget, msgget, mq_open. Other processes' share of the machine: setpriority,
# sched_set*, ioprio_set, migrate_pages, move_pages. The machine, which root may change: reboot, kexec, modules, clocks,
# names, swap, umount2, pivot_root, acct, quotactl, syslog, open_by_handle_at, and mounts by file descriptor.
_X86_MACHINE = (
    *(29, 64, 68, 240, 141, 142, 144, 203, 314, 251, 256, 279, 169, 246, 320, 175, 313, 176, 164, 227, 159, 305, 170),
    *(171, 167, 168, 166, 155, 163, 179, 103, 304, 172, 173, 428, 429, 430, 442),
)
_ARM_MACHINE = (
    *(194, 190, 186, 180, 140, 118, 119, 122, 274, 30, 238, 239, 142, 104, 294, 105, 273, 106, 170, 112, 171, 266, 161),
    *(162, 224, 225, 39, 41, 89, 60, 116, 265, 428, 429, 430, 442),
)
_MACHINES = {
    "x86_64": (0xC000003E, 56, 72, _X86 + _X86_MACHINE, (302, 160)),
    "aarch64": (0xC00000B7, 220, 25, _ARM + _ARM_MACHINE, (261, 164)),
}
"""Machine -> (AUDIT_ARCH, numbers of `clone` and `fcntl`, denied calls, calls that set resource limits)."""
_SIGNAL_OWNERS = (8, 10, 15)
"""F_SETOWN, F_SETSIG and F_SETOWN_EX of `fcntl`: by them a descriptor sends a signal to any process of the user."""
_CLONE3, _X32 = 435, 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _DENY, _MISSING = 0x7FFF0000, 0x00050001, 0x00050026  # errno EPERM, ENOSYS
_NUMBER, _ARCH, _FIRST_ARGUMENT, _SECOND_ARGUMENT, _CLONE_THREAD = 0, 4, 16, 24, 0x10000


def deny_calls(*, limits_too: bool) -> None:
    """Deny network, new processes and signals to others, and `limits_too`: setting limits. Threads are allowed.

    Raises OSError where that is impossible.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None or sys.platform != "linux":
        raise OSError(f"no sandbox for {platform.machine()} on {sys.platform}")
    arch, clone, fcntl, denied, limits = machine
    steps = _filter(arch, clone, fcntl, denied + limits if limits_too else denied)
    program = b"".join(struct.pack("HBBI", *step) for step in steps)
    content = ctypes.create_string_buffer(program)
    described = ctypes.create_string_buffer(struct.pack("HL", len(steps), ctypes.addressof(content)))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_SECCOMP, 2, ctypes.byref(described))


def _filter(arch: int, clone: int, fcntl: int, denied: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """The filter's steps as (operation, jump if true, jump if false, value)."""
    refuse, allow = (_RETURN, 0, 0, _DENY), (_RETURN, 0, 0, _ALLOW)
    steps = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), refuse]
    steps += [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), refuse]
    for number in denied:
        steps += [(_EQUAL, 0, 1, number), refuse]
    steps += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _MISSING)]  # the C library then calls clone
    steps += [(_EQUAL, 0, 3, clone), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_ANY_BIT, 1, 0, _CLONE_THREAD), refuse]
    steps += [(_EQUAL, 0, 1 + 2 * len(_SIGNAL_OWNERS), fcntl), (_LOAD, 0, 0, _SECOND_ARGUMENT)]
    for command in _SIGNAL_OWNERS:
        steps += [(_EQUAL, 0, 1, command), refuse]
    return [*steps, allow]


# --- files ----------------------------------------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITES = (1 << 1) | (0x1FF << 4)
"""Landlock's rights to write, make and remove of its first version; later ones add links (13) and truncation (14)."""
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_READABLE = ("/usr", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/random")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_SECRETS = ("/proc/", "/sys/")
"""Their files show what other processes hold."""
_DENIED = (  # the last four lead to the values of other frames
    "socket.",
    "subprocess.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.chown",
    "pty.",
    "sys._current_",
    "sys.settrace",
    "sys.setprofile",
    "gc.get_",
)


def deny_files_outside(folder: Path) -> None:
    """Deny every change of files outside the folder, except writing to /dev/null, and reading what may hold keys."""
    _landlock(folder)
    _audit(os.path.realpath(folder))


def _landlock(folder: Path) -> None:
    """Restrict by Landlock, if the kernel has it; the audit hook stands alone otherwise."""
    version = _LIBC.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return
    rights = _WRITES | _READ_FILE | _READ_DIR | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    allowed = {path: _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0) for path in _readable()}
    allowed |= {str(folder): rights, "/dev/null": 1 << 1 | _READ_FILE}
    ruleset = _LIBC.syscall(_CREATE_RULESET, ctypes.create_string_buffer(struct.pack("Q", rights)), 8, 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "Landlock refuses a ruleset")
    for path, right in allowed.items():
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", right, opened))
        if _LIBC.syscall(_ADD_RULE, ruleset, 1, rule, 0) != 0:
            raise OSError(ctypes.get_errno(), f"Landlock refuses a rule for {path}")
        os.close(opened)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if _LIBC.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
        raise OSError(ctypes.get_errno(), "Landlock refuses to restrict")
    os.close(ruleset)


def _readable() -> list[str]:
    """What code may need to read: Python's own files, those it imports from, and the system's libraries."""
    paths = {os.path.realpath(path) for path in (*_READABLE, sys.prefix, sys.base_prefix, *filter(None, sys.path))}
    return sorted(path for path in paths if os.path.exists(path))


def _audit(folder: str) -> None:
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def outside(path: Any) -> bool:
        if isinstance(path, int) or path is None:
            return False
        real = os.path.realpath(os.fsdecode(path))
        return real not in (folder, "/dev/null") and not real.startswith(f"{folder}/")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if not isinstance(path, int) and os.path.realpath(os.fsdecode(path)).startswith(_SECRETS):
                raise PermissionError(f"reading {path!r} is not allowed here")
            changes = (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & writing
            if changes and outside(path):
                raise PermissionError(f"writing {path!r} is not allowed here")
        elif event in _CHANGES:
            if any(outside(path) for path in arguments if isinstance(path, str | bytes | os.PathLike)):
                raise PermissionError(f"{event} outside the temporary folder is not allowed here")
        elif event == "socket.__new__" and arguments[1] == socket.AF_UNIX:
            return  # of a pair, as asyncio makes it: the filter denies all other sockets
        elif event.startswith(_DENIED):
            raise PermissionError(f"{event} is not allowed here")

    sys.addaudithook(hook)
