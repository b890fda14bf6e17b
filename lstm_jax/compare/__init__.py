"""One harness that measures LSTMs of several frameworks on the same work.

``python -m lstm_jax compare`` compares frameworks; ``python -m lstm_jax benchmark`` times the implementations
of this package, Flax's layers and PyTorch.

    frameworks.py     the frameworks: names, adapters, packages. To add one, begin here
    adapter.py        what an adapter is
    adapters/         one for each framework, as its own users would write it
    size.py           the size of the work, and the arithmetic that it takes
    work.py           weights and batches, the same for all
    judge.py          the same classifier in float64 NumPy, which says what is right
    worker.py         a process with one adapter, which does what it is told
    processes.py      starting these processes and talking to them
    parity.py         whether a framework computes what the judge does
    measuring.py      a size: parity, then rounds of timing, in which all take turns
    learning.py       time to an accuracy
    comparison.py     the command compare: its parts, each a file, in order
    benchmark.py      the command benchmark: size after size
    results.py        what was measured, as JSON
    statistics.py     medians, ratios and their confidence intervals
    machine.py        what was measured on
    report/           tables, pictures, document, page
    augmentation_cost.py  what augmentation adds to a training step

A framework is timed only after it has shown that it computes the same: from equal weights and batches the
same logits, loss and gradients, and the same losses over the first steps.
"""
