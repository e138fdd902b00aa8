"""Drops the capability of root to ignore file permissions, so that read-only folders are read-only for root too."""

import ctypes
import sys

PR_CAPBSET_DROP = 24
IGNORE_PERMISSIONS = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
VERSION_3 = 0x20080522


class Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def obey_permissions() -> None:
    """For this process and all that it starts. Does nothing but on Linux; raises OSError where that is refused."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = Header(VERSION_3, 0), (Sets * 2)()
    check(libc.capget(ctypes.byref(header), ctypes.byref(sets)))
    mask = ~sum(1 << number for number in IGNORE_PERMISSIONS) & 0xFFFFFFFF
    if sets[0].effective & ~mask & 0xFFFFFFFF:
        for number in IGNORE_PERMISSIONS:
            check(libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0))
    for name, _ in Sets._fields_:
        setattr(sets[0], name, getattr(sets[0], name) & mask)
    check(libc.capset(ctypes.byref(header), ctypes.byref(sets)))


def check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "the capabilities of this process cannot be changed")
