"""The data sets and their splits, and the conversion of pictures to images like those of MNIST.

    archives.py     the four archives of a data set, and their checksums
    idx.py          the format of the archives
    builder.py      a TFDS builder that needs no TensorFlow
    prepared.py     the copy on disk that TFDS prepares once
    dataset.py      the splits of a data set, in memory or on disk
    pictures.py     a photograph or drawing, read as an image like those of MNIST:
    decoding.py       from a file to colours
    paper.py          what is paper, and how far a picture departs from it
    marks.py          what is pen: marks, judged by place, size and stroke
    ink.py            from colours to ink, by these two
    images.py         from ink to an image like those of MNIST
    likeness.py     how much an image looks like a digit at all

Begin with `dataset.py`.
"""
