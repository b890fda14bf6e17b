"""``python -m lstm_jax benchmark``: implementations of the LSTM, timed side by side.

    options.py      what can be asked for
    size.py         the size of a task, and the arithmetic that it takes
    work.py         the task that all candidates get, and whether their answers agree
    jax_lstm.py     the candidates in JAX: Flax's layers and this package's
    torch_lstm.py   the candidate in PyTorch
    timing.py       runs that take turns, medians and quartiles
    sweep.py        from options to results: size after size
    report.py       results as a table and as JSON
    plot.py         results as a picture

Every size is measured by itself: its candidates are prepared, which is where compilation is timed; their
answers to the same question are compared; then each is timed once per round, and so is the matrix product
that gives the machine's peak.
"""
