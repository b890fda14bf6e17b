"""See inside: what a trained LSTM does at every step, as arrays and as pictures.

    reading.py    gates, cell, hidden state and probabilities after each step; what the decision depends on
    memory.py     how far back the gradient reaches: the LSTM against a plain RNN
    figures.py    the pictures of both
    page/         the page where one draws a digit and watches it being read
    diagrams.py   the drawn pictures of the tutorial
    experiments.py, tutorial.py  what the tutorial measures; its pictures and tables, as files
    files.py      all pictures of a run, as files: ``python -m lstm_jax explain``

The pictures of a training and of an evaluation are in `lstm_jax/report/plots.py`.
"""
