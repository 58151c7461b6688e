"""spliceproxy: an HTTP and CONNECT forward proxy whose bytes stay in the kernel."""

from spliceproxy.version import __version__

__all__ = ["__version__"]
