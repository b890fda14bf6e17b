"""The machine.

caches.py    the folders of compiled programs and kernels
cores.py     the cores that this process may use
files.py     files that are written whole or not at all
packages.py  packages that only some commands need
signals.py   signals that wait until it is safe to stop
versions.py  what differs between versions of JAX and Flax
"""
