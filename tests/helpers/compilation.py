"""How XLA compiles in the tests: quickly, or as users have it.

Most of the time of most tests is XLA compiling for them what runs once and briefly. Without optimization it
compiles in a third of the time. Rounding depends on it, so a few tests compile as users do.
"""

from importlib.metadata import version

# XLA ends the process at a flag that it does not know. JAX 0.12 has no choice of emitters any more.
_HAS_EMITTERS = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12)

QUICK = "--xla_backend_optimization_level=0" + " --xla_cpu_use_fusion_emitters=false" * _HAS_EMITTERS
# Options of a single program, which undo those.
OPTIMIZED: dict[str, int | bool] = {
    "xla_backend_optimization_level": 3,
    **({"xla_cpu_use_fusion_emitters": True} if _HAS_EMITTERS else {}),
}
