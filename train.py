"""Train an LSTM on MNIST: ``python train.py``, or ``python train.py --help`` for the options."""

import sys

from lstm_jax.commands import command_line, train

PROG = "train.py"

if __name__ == "__main__":
    command_line.run(lambda: train.main(sys.argv[1:], prog=PROG), prog=PROG, goes_on=True)
