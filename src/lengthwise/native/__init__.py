"""Kernels in C, compiled on the user's own machine when they are first needed.

An op keeps its kernel beside its torch form, `ops/<op>/native.c`, and asks `load` for it. There is no build step and
no library to link: a kernel is one C file that includes `numbers.h`, takes pointers and sizes, and is called through
ctypes, which lets other threads of Python run meanwhile. Compiled files are kept in the cache folder, named by a hash
of everything that decides their content, the processor included.

Where there is no C compiler, or `LENGTHWISE_BACKEND=torch` is set, every op runs in its torch form: the same numbers up
to rounding, more slowly. Runs record which it was.
"""

from lengthwise.native.backend import Backend, resolve_backend, usable
from lengthwise.native.compiler import load
from lengthwise.native.threads import Team, parallel, team

__all__ = ["Backend", "Team", "load", "parallel", "resolve_backend", "team", "usable"]
