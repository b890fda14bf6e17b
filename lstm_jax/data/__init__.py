"""The data sets and their splits, and the conversion of pictures to images like those of MNIST.

    archives.py     the four archives of a data set, and their checksums
    idx.py          the format of the archives
    builder.py      a TFDS builder that needs no TensorFlow
    prepared.py     the copy on disk that TFDS prepares once
    dataset.py      the splits of a data set, in memory or on disk
    images.py       the conversion of a photograph or drawing to an image like those of MNIST

Begin with `dataset.py`.
"""
