"""Messages: what they quote cannot steer the terminal."""

import pytest

from lstm_jax.errors import ExchangeError, UserError, one_line, printable

# Clear the screen, set the title, the same in one C1 byte, a line back, text from right to left, half a
# character that no terminal can encode, the end of a line in Unicode.
STEERING = ["\x1b[2J", "\x1b]0;title\x07", "\x9b2J", "a\rb", "\u202egnp", "\udcff", "a\u2028b", "\x7f", "\0"]


@pytest.mark.parametrize("text", STEERING)
def test_what_steers_a_terminal_is_written_out(text: str) -> None:
    for told in (printable(text), str(UserError(f"got {text}")), one_line(ValueError(f"got {text}"))):
        assert told.isprintable()
        told.encode("utf-8")
    # A cause that is told within another message is not escaped twice.
    inner = str(ExchangeError(text))
    assert str(ExchangeError(inner)) == inner


def test_what_can_be_read_stays_as_it_is() -> None:
    for text in ("layer 'größe' (4, 5): 99 %", "数字", "C:\\path", "a  b"):
        assert printable(text) == text == str(UserError(text))
