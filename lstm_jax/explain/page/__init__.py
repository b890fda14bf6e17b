"""One HTML file in which a trained network reads the digit that its visitor draws.

Its parts:

    page.py      makes the file: the run's weights and 20 test images, with all of the files below
    page.html    what stands where; texts are named, not written
    page.css     how it looks: light, dark, narrow, wide, printed
    words.js     all texts, in English and Korean
    network.js   the network: forward step by step, the gradient, and what can be broken
    ink.js       from strokes to 28 x 28 pixels, as `lstm_jax.data.images` does it
    drawing.js   the drawing area: pointers and keys
    link.js      the state as a part of the address
    canvas.js    what all pictures share
    pictures.js  the image, bars, curves, strips and the gradient
    formula.js   one unit at one step: the cell and its equations
    view.js      the state, what follows from it, and what shows it
    visitor.js   what the visitor does: languages and colours, player, link, controls

`page` makes the file.
"""
