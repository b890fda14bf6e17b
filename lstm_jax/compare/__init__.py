"""``python -m lstm_jax compare``: LSTMs of other frameworks beside ours, on the same work.

    options.py      what can be asked for
    command.py      the folder of a comparison, and how it ends there
    beginning.py    the results before anything is measured
    frameworks.py   the frameworks: names, adapters, packages
    adapter.py      what an adapter is
    adapters/       one for each framework, as its own users would write it
    work.py         weights and batches, the same for all
    judge.py        the same classifier in float64 NumPy, which says what is right
    worker.py       a process with one adapter, which does what it is told
    processes.py    starting these processes and talking to them
    parity.py       whether a framework computes what the judge does
    measuring.py    rounds of timing, in which all take turns; curves over sizes
    learning.py     time to an accuracy
    comparison.py   all of it in order
    continuing.py   going on with one that was stopped
    results.py      what was found, and results.json
    statistics.py   medians, ratios and their confidence intervals
    tables.py       results as tables
    findings.py     what the numbers say, in words
    against.py      two comparisons beside each other
    styles.py       colours and markers of the frameworks
    plots.py        results as pictures
    page.py         results as one page of HTML
    report.py       all of it: Markdown, and a folder of files

A framework is timed only after it has shown that it computes the same: from equal weights and batches the
same logits, loss and gradients, and the same losses over the first hundred steps.
"""
