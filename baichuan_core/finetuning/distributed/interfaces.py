"""The network interface by which this machine reaches another."""

import fcntl
import socket
import struct
import sys

SIOCGIFADDR = 0x8915  # linux/sockios.h
ADDRESS = slice(20, 24)  # of a struct ifreq with an IPv4 address


def find_interface(address: str) -> str | None:
    """Return the name of the interface towards an address, such as "eth0"; None if it cannot be found out."""
    if sys.platform != "linux":
        return None
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # sends nothing: it only chooses the route
            own = socket.inet_aton(probe.getsockname()[0])
            return next((name for _, name in socket.if_nameindex() if _address(probe, name) == own), None)
    except OSError:
        return None


def _address(probe: socket.socket, interface: str) -> bytes | None:
    try:
        answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode()))
    except OSError:  # it has no IPv4 address
        return None
    return answer[ADDRESS]
