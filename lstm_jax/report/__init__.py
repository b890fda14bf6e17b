"""A training and an evaluation as figures, in words, as pictures and as a page.

    figures.py               accuracy, calibration, confusions, mistakes
    plots.py                 the pictures: learning curves, confusions, calibration, mistakes
    files.py                 figures as JSON, pictures as files
    run_page.py              a run as one page
    drawing.py               the style of all pictures of the project, and their files
    page.py, tables.py       a document in Markdown as one page of HTML, in the style of page.css; its tables
    augmentation_gallery.py  what augmentation makes of digits, as a picture

What is scored, and how, is in `lstm_jax/evaluation.py`.
"""
