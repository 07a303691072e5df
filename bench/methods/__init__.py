"""The bridge: `methods/NAME.py` is the module `bench.methods.NAME`, in a checkout and a wheel."""

from bench.core import HOME

__path__ = [str(HOME / "methods")]
