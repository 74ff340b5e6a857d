"""Become another program, as a user Postgres accepts and tied to the life of the parent.

Run by path (`python -I -S launch.py MODE PARENT SIGNAL PROGRAM ARG…`), so it imports nothing of
pgwerk and is up in about 10 ms. A `preexec_fn` would do the same, but forking Python code from a
process that has threads can deadlock, and a chaos test restarts servers under running workers.
"""

import contextlib
import ctypes
import os
import pwd
import sys

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAPABILITY_VERSION_3 = 0x20080522


def enter_namespace() -> None:
    """Appear as `nobody` in a user namespace of our own; outside, nothing changes.

    Postgres then agrees to run for root, and files stay root's, also below a directory of mode 700.
    """
    uid, gid = os.geteuid(), os.getegid()
    nobody = pwd.getpwnam("nobody")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER)")
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{nobody.pw_uid} {uid} 1"),
        ("gid_map", f"{nobody.pw_gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 (no pathlib: start fast)
            file.write(line)


def become(uid: int, gid: int) -> None:
    """Give up root but, on Linux, for the right to reach files whatever their modes say.

    Without it a server in a container, whose seccomp profile usually forbids namespaces, could use
    neither a virtual environment below /root nor a directory made by tempfile.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    linux = sys.platform == "linux"
    if linux:
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        # or access(2), with which initdb looks for postgres, would disregard the capability
        libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if linux:
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        bit = 1 << CAP_DAC_OVERRIDE
        sets = (ctypes.c_uint32 * 6)(bit, bit, bit)  # effective, permitted, inheritable; high words
        # Where the capability is not to be had, modes decide, and initdb's message explains it.
        if libc.capset(header, sets) == 0:
            libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def die_with(parent: int, signal_number: int) -> None:
    """Ask the kernel for `signal_number` when the parent is gone; Linux only.

    After the change of user, which would clear it. It fires when the *thread* that started us ends.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number)
        if os.getppid() != parent:
            sys.exit("the parent is gone already")


def main(mode: str, parent: str, signal_number: str, *command: str) -> None:
    """Change user as `mode` says ("same", "namespace" or "UID:GID"), then exec."""
    if mode == "namespace":
        enter_namespace()
    elif mode != "same":
        uid, _, gid = mode.partition(":")
        become(int(uid), int(gid))
    with contextlib.suppress(AttributeError):  # a libc without prctl
        die_with(int(parent), int(signal_number))
    os.execv(command[0], command)  # noqa: S606 (no shell is the point)


if __name__ == "__main__":
    main(*sys.argv[1:])
