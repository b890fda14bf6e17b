"""From the archives of a data set to its splits, and from a user's picture to an image of MNIST's kind.

    archives.py     the four archives of a data set: in the package, in a folder, or downloaded; checked
    idx.py          their format
    builder.py      a TFDS builder of them that needs no TensorFlow
    prepared.py     the copy that TFDS prepares: made once, checked, found again
    dataset.py      its splits, in memory or on disk
    images.py       a photograph or a drawing as an image of MNIST's kind

Begin with `dataset.py`.
"""
