"""A run: the loop over epochs, its files and its output.

    loop.py           the loop, from an empty folder to a summary
    plan.py           the number of steps and epochs
    feed.py           the batches of an epoch, and their transfer to the devices
    finished.py       the result of a run, and a finished run that is started again
    seeds.py          one seed or many
    history.py        decisions from past epochs: the best epoch, early stopping, the end
    summary.py        the summary, and the lines at the start and the end
    spread.py         mean, deviation and interval over seeds
    processes.py      agreement between the processes of a run
    run_directory.py  the folder: config.json, metrics.jsonl, events, summary.json
    checkpoint.py     the saved states
    checksums.py      the check that their files are undamaged
    trained.py        the trained model, read back from a run
    console.py        progress on the terminal

Begin with `loop.py`.
"""
