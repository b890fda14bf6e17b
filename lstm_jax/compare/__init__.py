"""One harness that measures the LSTMs of several frameworks on the same work.

``python -m lstm_jax compare`` compares frameworks. ``python -m lstm_jax benchmark`` times the implementations
of this package, Flax's layers and PyTorch.

    adapter.py        the interface of an adapter. To add a framework, begin here
    frameworks.py     the frameworks: names, adapters, packages
    adapters/         one for each framework, as its own users would write it
    size.py           the size of the work, and its number of operations
    work.py           weights and batches, the same for all
    judge.py          the same classifier in float64 NumPy, as the reference
    worker.py         the process of one adapter
    processes.py      the start of these processes, and calls to them
    parity.py         the comparison of a framework with the judge
    measuring.py      one size: parity, then rounds of timing
    learning.py       time to an accuracy
    comparison.py     the command compare: its parts, each a file, in order
    benchmark.py      the command benchmark: size after size
    results.py        the measurements, as JSON
    statistics.py     medians, ratios and their confidence intervals
    machine.py        the machine and the versions
    report/           tables, pictures, document, page
    augmentation_cost.py  the time that augmentation adds to a training step

A framework is timed only after it has shown parity. From equal weights and batches, it must compute the same
logits, loss and gradients, and the same losses over the first steps.
"""
