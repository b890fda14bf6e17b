"""An evaluation as figures, in words and as files.

    figures.py               accuracy, calibration, confusions, mistakes
    files.py                 the same as JSON and pictures
    augmentation_gallery.py  what augmentation makes of digits, as a picture

What is scored, and how, is in `lstm_jax/evaluation.py`.
"""
