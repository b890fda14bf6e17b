"""A run: the loop over epochs, and everything that survives it.

    loop.py           from an empty folder to a summary
    plan.py           how many steps, in how many epochs
    feed.py           brings batches to the devices
    seeds.py          one seed or many
    history.py        the records of past epochs, and what they decide
    summary.py        what is said of a run, on the way and at its end
    spread.py         mean, deviation and interval over seeds
    processes.py      what several processes of a run do together
    run_directory.py  the folder: config.json, metrics.jsonl, events, summary.json
    checkpoint.py     its saved states
    checksums.py      whether their files are whole
    trained.py        a run read back: its model, ready to use
    console.py        what the person who started it sees

Begin with `loop.py`.
"""
