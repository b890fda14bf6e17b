"""The command line: ``train.py`` and ``python -m lstm_jax COMMAND``.

Nothing heavy is imported before the options are read: ``--help`` and a typing mistake need no JAX.
"""
