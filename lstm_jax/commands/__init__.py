"""The command line: ``train.py``, ``python -m lstm_jax COMMAND`` and the installed ``lstm-jax COMMAND``.

    command_line.py  what all commands share: options, errors in one line, exit codes
    train.py         train, or continue, one run
    evaluate.py      score a trained model on the test images
    predict.py       name the digits in pictures
    explain.py       pictures of what a trained model does
    report.py        a run as one page
    page.py          a page that reads the digit one draws
    exchange.py      export and import weights
    compare.py       compare frameworks on the same work
    benchmark.py     time implementations of the LSTM
    options_page.py  docs/options.md, made from the options

`lstm_jax/__main__.py` has the table of commands. JAX is imported only after the options are read: ``--help``
and a typing mistake need none of it.
"""
