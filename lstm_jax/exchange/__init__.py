"""Weights to and from PyTorch, Keras, ONNX, Flax and safetensors.

    formats.py       the formats: what is written, what is read
    layouts.py       the parameters of `LSTMClassifier` as other frameworks name and lay them out
    metadata.py      what a file says of the images that its weights are for
    keras_files.py   files of Keras 3 and 2
    keras_models.py  which models in them are an LSTM classifier
    onnx_files.py    an ONNX graph of our own
    onnx_reader.py   which graphs of others are an LSTM classifier
    onnx_content.py  the bytes of an ONNX file
    flax_files.py    msgpack files of Flax
    imported_run.py  a run directory that begins with such weights

Begin with `formats.py`.
"""
