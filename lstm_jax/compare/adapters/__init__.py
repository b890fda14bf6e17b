"""The classifier in each framework, as its own users would write it; see `lstm_jax.compare.adapter`."""
