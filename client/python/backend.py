"""Builds the package by setuptools, wherever pip builds it.

pip hides a machine's packages from a build, and fetches setuptools from the network instead. The one that Debian or
the virtual environment has serves as well, so that installing needs no network.
"""

import site
import sys

try:
    import setuptools  # noqa: F401
    import wheel  # noqa: F401
except ImportError:
    sys.path += site.getsitepackages() + ["/usr/lib/python3/dist-packages"]

from setuptools.build_meta import (  # noqa: E402, F401
    build_sdist,
    build_wheel,
    prepare_metadata_for_build_wheel,
)


def get_requires_for_build_wheel(config_settings=None):
    return []


def get_requires_for_build_sdist(config_settings=None):
    return []
