"""The tables and figures of the DistDD paper (arXiv 2410.08665), each as a sweep: `python -m examples.paper`."""
