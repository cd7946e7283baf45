"""Finds the network interface through which this machine reaches another."""

import fcntl
import socket
import struct
import sys

SIOCGIFADDR = 0x8915  # linux/sockios.h
IPV4_ADDRESS_SLICE = slice(20, 24)  # bytes of the IPv4 address in a struct ifreq


def find_interface(address: str) -> str | None:
    """Return the name of the interface used to reach an address, such as "eth0"; None if it is unknown."""
    if sys.platform != "linux":
        return None
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # sends nothing; only selects the route
            own = socket.inet_aton(probe.getsockname()[0])
            return next((name for _, name in socket.if_nameindex() if _get_address(probe, name) == own), None)
    except OSError:
        return None


def _get_address(probe: socket.socket, interface: str) -> bytes | None:
    try:
        answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode()))
    except OSError:  # the interface has no IPv4 address
        return None
    return answer[IPV4_ADDRESS_SLICE]
