"""Many processes, on one machine or on many, that train as one.

    options.py    the options that say which process of how many this is
    watch.py      the connections between the processes: who has come, and who is gone
    joining.py    a command as one of the processes: JAX's runtime, and the end of it when one fails
    launcher.py   the processes of one machine, started and watched from outside
    scaling.py    a model of the time of a run on many devices, from measured terms

What the processes of a run agree on, once they are connected, is in `lstm_jax.runs.processes`. Nothing but
`joining.py` and `scaling.py` imports JAX.
"""
