"""Programs that use the library: each is run by its file, the evaluation of the paper by `python -m examples.paper`."""
