"""A federation of three hospitals on one machine: `python -m examples.flower.run`."""
