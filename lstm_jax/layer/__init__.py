"""The surroundings of an implementation that any LSTM layer needs.

    arguments.py    inputs, lengths and carry: checked, and converted to one form
    dropout.py      dropout of units and of weights while training
    parameters.py   the parameters, under Flax's names
    wrappers.py     less memory, shares of a batch, long memories: with every implementation

The layers themselves are in the root: `linen.py`, `nnx.py` and `equinox.py`. All call `functional.lstm`.
"""
